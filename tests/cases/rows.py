"""A table with text, blanks and a column that does not matter: no code of one's own but what writes it."""

import csv
import random


def write(path: str, rows: int = 240) -> None:
    draw = random.Random(0)
    with open(path, "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "colour", "size", "weight", "good"])
        for number in range(rows):
            colour, size = draw.choice(["red", "green", "blue", ""]), draw.choice(["S", "M", "L"])
            weight = "" if draw.random() < 0.1 else f"{draw.gauss(10, 3):.2f}"
            good = colour == "red" or (size == "L" and float(weight or 10) > 9)
            writer.writerow([number, colour, size, weight, "yes" if good else "no"])


if __name__ == "__main__":
    write("rows.csv")
