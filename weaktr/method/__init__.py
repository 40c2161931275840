"""The paper, in the order of the notebooks.

    01  cam_training, cam_measures      the CAM network learns to name what is in an image
    02  cam_generation, cams            multi-scale CAMs, and their files
        attention_view                  what a patch and a class token see, with heads weighed by hand
    03  pseudo_labels, crf              seeds at a background score, refined along the edges of the image
    04  retraining, clipping            a segmenter learns from these labels with gradient clipping
    05  segmentation                    its masks of images and lists

It knows data, evaluation and models. It must not know a run, a stage's folder, a notebook or a figure: what varies from
run to run is handed in, and what a training reports is a table.
"""
