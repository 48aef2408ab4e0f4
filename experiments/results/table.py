"""The table of docs/results/dombrowski2019.md, from the results.json files of experiments/manipulate.py kept here.

    python experiments/results/table.py
"""

import json
from pathlib import Path

COLUMNS = {"map_pearson": "correlation with the target map", "map_pearson_before": "before",
           "image_mse": "image MSE", "probability_change": "largest change of a probability",
           "prediction_unchanged": "predictions kept"}


def cell(row, name):
    if name == "prediction_unchanged":
        return f"{100 * row['value']:.0f} %"
    digits = 2 if name.startswith("map") else 1
    form = (lambda v: f"{v:.{digits}f}") if name.startswith("map") else (lambda v: f"{v:.{digits}e}")
    return f"{form(row['value'])} ({form(row['low'])} to {form(row['high'])})"


def main():
    print("| network | explanation | images | " + " | ".join(COLUMNS.values()) + " |")
    print("|" + "---|" * (len(COLUMNS) + 3))
    for path in sorted(Path(__file__).parent.glob("*-*.json")):
        result = json.loads(path.read_text())
        cells = [result["config"]["network"], result["config"]["explanation"].replace("_", " "),
                 str(len(result["images"])), *(cell(result["metrics"][name], name) for name in COLUMNS)]
        print("| " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
