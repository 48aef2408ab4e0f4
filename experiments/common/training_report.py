"""What a training is reported by: a sentence, maps before and after, curves of the log, a table."""

import csv

import numpy as np

from common import html_report, report
from xmanip_jax import data


def pictures(model, teacher, images, labels, classes):
    """The gradient maps of test images of different classes, beside those of teacher, what training began with."""
    first = np.sort(np.lexsort((labels, data.ranks(labels)))[:3])
    x, y = images[first], labels[first]
    networks = {"before": teacher, "trained": model} if teacher else {"trained": model}
    maps = {when: html_report.gradients(network, lambda x: x, x, y) for when, network in networks.items()}
    caption = (f"Of {', '.join(report.class_name(classes, label) for label in y)}: the gradient of the label's logit, "
               "red where positive, blue where negative.")
    return [html_report.Picture("Test images", caption, [
        html_report.maps({when: (x[i], of[i]) for when, of in maps.items()}, signed=True) for i in range(len(x))])]


def curves(log):
    """A curve for each column of log.csv; none of a single step."""
    with open(log, newline="") as file:
        rows = {row["step"]: row for row in csv.DictReader(file)}.values()  # what was repeated after a kill counts once
    names = [name for name in next(iter(rows), {}) if name != "step" and len(rows) > 1]
    return [html_report.curve(name, [(float(row["step"]), float(row[name])) for row in rows], "step")
            for name in names]


def table(rows):
    """What main prints, for report.html."""
    return report.grid(("measure", "value", "95 % interval"), [
        (name, f"{row['value']:.4f}", f"{row['low']:.4f} to {row['high']:.4f}") for name, row in rows.items()])


def verdict(config, rows, flags, labels=""):
    """Sentences that sum up, and say what the labels are, with the flags of the attack at the last epsilon."""
    said = "; ".join(f"{report.words(name).replace('@', ' within ')}: {row['value']:.3f}" for name, row in rows.items())
    source = config.dataset or config.images
    return html_report.Verdict(f"Trained on {source} with the defence {config.defence}. {said.capitalize()}. {labels}",
                               [name for name, flag in flags.items() if flag.raised])


