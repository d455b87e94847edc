"""Classify images: ``python scripts/predict.py RUN DIR [--out FILE.csv | FILE.parquet] [--top-k K]``.

    python scripts/predict.py runs/birds-finetuned DIR --out birds.csv
    python scripts/predict.py runs/birds wren.jpg

RUN is a fine-tuned run, or one that scripts/evaluate.py --save-probe left a linear probe in. DIR is a folder of images, or one
image. Each row has an image's path, its class, the calibrated probability of that, and the next classes with theirs. Where DIR
has labels, accuracy and calibration error are said.
"""

import sys

from simclr.stopping import listen

if __name__ == "__main__":
    listen()  # before the imports, which take seconds

from linear_eval.classifiers import find_classifier
from linear_eval.predict import PredictOptions, images_as_read, predict_run
from linear_eval.sharing import shared
from simclr.command_line import parse_flags, run_command, run_images_and_flags
from simclr.names import printable


@shared
def main(arguments: list[str]) -> int:
    about = __doc__ or ""
    run, images, words = run_images_and_flags(arguments, "predict.py", about, PredictOptions())
    classifier = find_classifier(run)
    default = PredictOptions(data=images_as_read(classifier, images))
    options = parse_flags(PredictOptions, words, "predict.py RUN DIR", about, default=default)
    found = predict_run(classifier, options)
    if options.out is None:
        print(found.as_csv(), end="")
    print("\n".join(found.lines()), file=sys.stderr if options.out is None else sys.stdout)
    if options.out is not None:
        print(printable(f"wrote {options.out}"))
    return 0


if __name__ == "__main__":
    sys.exit(run_command(main))
