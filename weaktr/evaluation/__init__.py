"""Numbers from masks and maps: metrics, the scores of a list, intervals. It knows no network and no run."""
