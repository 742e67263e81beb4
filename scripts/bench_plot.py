"""The figures of scripts/bench as a picture (SVG) that can be read on light and on dark ground."""

import statistics
from html import escape

from bench_workers import EMBEDDED, FINALIZER, NAIVE, PIPELINE, PROGRAMS

WIDTH, LEFT, RIGHT, BAR, STEP = 760, 170, 120, 16, 24
COLOURS = {NAIVE: "#9aa4b2", PIPELINE: "#d9a441", FINALIZER: "#2f81f7", EMBEDDED: "#7fb2f9"}
PARTS = dict(zip(PROGRAMS, ("#2f81f7", "#4fae7b", "#d9a441", "#9aa4b2")))
INK = "#6e7781"


class Picture:
    """Drawn from top to bottom."""

    def __init__(self):
        self.y = 8
        self.parts = []

    def text(self, x, text, size=12, anchor="start", weight="normal"):
        self.parts.append(f'<text x="{x:.1f}" y="{self.y:.1f}" font-size="{size}" text-anchor="{anchor}" font-weight="{weight}">{escape(text)}</text>')

    def bar(self, x, width, colour):
        self.parts.append(f'<rect x="{x:.1f}" y="{self.y - 12:.1f}" width="{max(width, 1):.1f}" height="{BAR}" rx="2" fill="{colour}"/>')

    def line(self, x1, x2):
        y = self.y - 12 + BAR / 2
        self.parts.append(f'<path d="M{x1:.1f} {y:.1f}H{x2:.1f}M{x1:.1f} {y - 4:.1f}v8M{x2:.1f} {y - 4:.1f}v8" stroke="{INK}" fill="none"/>')

    def title(self, text):
        self.y += 30
        self.text(0, text, 13, weight="bold")
        self.y += 8

    def svg(self):
        head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {self.y + 16:.0f}" font-family="system-ui, sans-serif" fill="{INK}">'
        return "\n".join([head, *self.parts, "</svg>\n"])


def plot(figures, file):
    picture = Picture()
    for size, found in figures["sizes"].items():
        rates(picture, f"Events a second from queue to recorded delivery, {size} each", found["workers"])
    for size, found in figures["sizes"].items():
        costs(picture, f"CPU per event, µs, {size} each", found["workers"])
    latency(picture, figures["latency"])
    machine = figures["machine"]
    picture.y += 34
    picture.text(0, f"Everything on one machine: {machine['cores']} cores, {machine['cpu']}. Bars: the median of {figures['rounds']};"
                    " lines: least and most.", 11)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(picture.svg())


def rates(picture, title, workers):
    picture.title(title)
    scale = (WIDTH - LEFT - RIGHT) / max(max(found["events_per_second"]) for found in workers.values())
    for worker, found in workers.items():
        values = found["events_per_second"]
        picture.y += STEP
        picture.text(LEFT - 8, worker, anchor="end")
        picture.bar(LEFT, statistics.median(values) * scale, COLOURS[worker])
        picture.line(LEFT + min(values) * scale, LEFT + max(values) * scale)
        picture.text(LEFT + max(values) * scale + 8, f"{statistics.median(values):,.0f}")


def costs(picture, title, workers):
    picture.title(title)
    medians = {worker: [statistics.median(found["cpu_us"][program]) for program in PROGRAMS] for worker, found in workers.items()}
    scale = (WIDTH - LEFT - RIGHT) / max(map(sum, medians.values()))
    for worker, spent in medians.items():
        picture.y += STEP
        picture.text(LEFT - 8, worker, anchor="end")
        x = LEFT
        for us, colour in zip(spent, PARTS.values()):
            picture.bar(x, us * scale, colour)
            x += us * scale
        picture.text(x + 8, f"{sum(spent):,.0f}")
    picture.y += STEP
    for number, (program, colour) in enumerate(PARTS.items()):
        picture.bar(LEFT + number * 110, BAR, colour)
        picture.text(LEFT + number * 110 + BAR + 6, program)


def latency(picture, figures):
    picture.title(f"Milliseconds from publishing to the webhook's arrival, at {figures['rate']:,} events a second")
    buckets = figures["histogram"]
    most, total = max(count for _, count in buckets), sum(count for _, count in buckets)
    scale, width = 70 / most, (WIDTH - LEFT - RIGHT) / len(buckets)
    picture.y += 80
    for number, (bound, count) in enumerate(buckets):
        x = LEFT + number * width
        picture.parts.append(f'<rect x="{x:.1f}" y="{picture.y - count * scale:.1f}" width="{width - 1:.1f}" height="{count * scale:.1f}" fill="{COLOURS[FINALIZER]}"/>')
    picture.y += 14
    shown = 1 + len(buckets) // 12
    for number, (bound, _) in enumerate(buckets):
        if number % shown == 0:
            picture.text(LEFT + (number + 1) * width, f"{bound:.3g}", 9, anchor="end")
    worker = figures["workers"][FINALIZER]
    told = ", ".join(f"{name} {statistics.median(values):,.1f}" for name, values in worker.items())
    picture.y += 18
    picture.text(LEFT, f"{total:,} events; medians of the runs: {told}", 11)
