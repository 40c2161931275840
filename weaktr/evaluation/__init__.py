"""Numbers from masks and maps.

- `metrics`: confusion matrices, IoU, seeds and the threshold curve, of arrays
- `scores`: the same of whole lists of images, and tables by image, class and object
- `agreement`: whether labels of another method fit the names and masks of their images
- `intervals`: how far such a number can be trusted

This room knows NumPy and pandas. It must not know networks, the stages of the method, figures or runs: whoever asks for
a score hands in the function that reads or makes a mask.
"""
