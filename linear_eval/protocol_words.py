"""The protocol of a score in words, so that a reader of the result needs no code to repeat it."""

from linear_eval.config import EvalConfig

__all__ = ["in_words"]


def in_words(config: EvalConfig, counts: dict[str, int], pixel_size: int, beside: bool = False) -> dict[str, str]:
    """The protocol, so that a reader of the result needs no code to repeat it."""
    train, test = counts["train labelled"], counts["test labelled"]
    lbfgs = (
        "L2-regularised multinomial logistic regression (intercept not penalised) on frozen features, standardised by the mean "
        f"and deviation of the training set; {len(config.strengths)} strengths from {min(config.strengths):g} to "
        f"{max(config.strengths):g} (scikit-learn's C is 1 / (strength x N)), chosen by accuracy on "
        f"{100 * config.validation:g} % of every training class, held out in turn until 500 images were, refitted on all "
        f"{train} training images"
    )
    sgd = (
        f"a linear layer on frozen features, not standardised, trained {config.sgd_epochs} epochs on random crops "
        f"(area 0.08 to 1) and flips (p = {config.sgd_flip:g}) of {train} images by SGD: Nesterov momentum 0.9, "
        f"learning rate {config.sgd_learning_rate:g} x batch / 256 with a cosine to 0, batch {config.sgd_batch_size}, "
        "no weight decay; nothing is chosen"
    )
    words = {
        "features": f"encoder in eval mode before the projection head, {config.precision}, each image once, whole "
        "(resized and centre-cropped as the encoder's file says); parameters and buffers proven unchanged by SHA-256",
        "linear": f"{lbfgs if config.probe == 'lbfgs' else sgd}; {test} test images scored once",
        "interval": f"95 % percentile bootstrap over test images, {config.resamples} resamples",
        "knn": f"{config.knn_k} nearest training images by cosine, each voting with exp(cosine / "
        f"{config.knn_temperature:g}) (Wu et al. 2018)",
        "raw pixels": f"pixels in [0, 1], averaged down to {pixel_size} x {pixel_size} where larger",
    }
    if config.trials:
        words["few labels"] = (
            f"{config.trials} draws of labelled images, the same for every row (seed {config.seed}); features "
            f"standardised by all training images, L2-regularised logistic regression at the fixed C = "
            f"{config.few_label_c:g}; mean and standard deviation over draws"
        )
    if beside:
        words["beside"] = (
            "further encoders: the same images in the same parts, read and normalised as each encoder's file says; the "
            "differences are paired over test images and draws"
        )
    return words
