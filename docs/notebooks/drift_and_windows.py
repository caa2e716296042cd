# %% [markdown]
# # Drift, and windows of labels
#
# Two questions that a training set is asked: is today's data like that of the days before, and how long must a sample
# wait for its label? Both are answered here from two weeks of a log that is made, with an answer that is known: half
# of all clicks come within eight minutes, and on the last day the clicks of most users are lost.

# %%
import math
import random
import subprocess
import sys
import tempfile
from datetime import datetime, timedelta
from pathlib import Path

import pandas as pd

from dovetail.app.quality.project_sources import quality_of
from dovetail.app.reports import delays_of
from dovetail.app.storage import open_stores
from dovetail.sdk import load

DOVETAIL = Path(sys.executable).parent / "dovetail"
DAYS, A_DAY, MEDIAN_S = 14, 40, 8 * 60
folder = Path(tempfile.mkdtemp(prefix="dovetail-drift-"))
chance, start = random.Random(11), datetime(2024, 3, 1)
requests, exposures, clicks = [], [], []
for day in range(DAYS):
    for number in range(A_DAY):
        request, user = f"r{day}-{number}", f"u{chance.randrange(12)}"
        now = start + timedelta(days=day, minutes=number * 24 * 60 / A_DAY)
        items = [f"i{item}" for item in chance.sample(range(30), 5)]
        requests.append((request, user, now, [{"item_id": item} for item in items]))
        exposures += [(request, item, now) for item in items]
        for item in items:
            if chance.random() < 0.4:
                delay = timedelta(seconds=chance.lognormvariate(math.log(MEDIAN_S), 0.8))
                clicks.append((request, item, now + delay, user, day))
shown = pd.DataFrame(exposures, columns=["request_id", "item_id", "event_time"])
clicked = pd.DataFrame(clicks, columns=["request_id", "item_id", "event_time", "user_id", "day"])
lost = (clicked["day"] == DAYS - 1) & (clicked["user_id"] != "u0")
print(f"{len(requests):,} requests, {len(clicked):,} clicks; {lost.sum()} of the last day are lost as events")

# %% [markdown]
# ## The log, replayed

# %%
project_folder = folder / "project"
subprocess.run([DOVETAIL, "init", "--minimal", project_folder], check=True)
columns = ["request_id", "user_id", "request_time", "candidates"]
pd.DataFrame(requests, columns=columns).to_parquet(folder / "requests.parquet")
shown.to_parquet(folder / "exposure.parquet")
clicked[["request_id", "item_id", "event_time"]].to_parquet(folder / "click.parquet")
clicked.loc[~lost, ["user_id", "item_id", "event_time"]].to_parquet(folder / "events.parquet")
subprocess.run(
    [
        *(DOVETAIL, "replay", "--until-idle", "--slice", "6h", "--project", project_folder),
        *("--requests", folder / "requests.parquet", "--stream", f"events={folder / 'events.parquet'}"),
        *("--labels", f"exposure={folder / 'exposure.parquet'}", "--labels", f"click={folder / 'click.parquet'}"),
    ],
    check=True,
)

# %% [markdown]
# ## How long labels take
#
# The same numbers as `dovetail labels` shows: a survival estimate, in which requests that are too young to have all
# their labels count as far as they go. The estimated median is that of the log.

# %%
project = load(project_folder)
stores = open_stores(project.config)
delays = delays_of(project, stores, horizon_us=2 * 3600 * 1_000_000)
(of_clicks,) = [each for each in delays.kinds if each.kind == "click" and not each.slice]
windows = pd.DataFrame(
    [
        {"minutes": window.window_us / 60e6, "caught": window.caught, "at least": window.low, "at most": window.high}
        for window in of_clicks.windows
    ]
)
print(windows.round(3).to_string(index=False))
median_s = of_clicks.quantiles[0.5] / 1e6
known_s = (
    clicked.merge(shown, on=["request_id", "item_id"], suffixes=("", "_shown"))
    .eval("event_time - event_time_shown")
    .median()
    .total_seconds()
)
print(f"half of the clicks within {median_s:.0f} s; of the log {known_s:.0f} s")
assert abs(median_s / known_s - 1) < 0.05

# %% [markdown]
# ## Is the last day like those before?
#
# As `dovetail quality` judges: each day of each column against the seven before it. What users clicked within a day has
# moved, and more candidates have users without a last click. (Of the stream itself nothing is said: it has fewer rows
# a day than the 100 of `[quality] least_rows`.)

# %%
judged = quality_of(project, stores)
stores.close()
profiles = pd.DataFrame(judged.profiles.to_pylist())
served = profiles[(profiles["dataset"] == "snapshots") & (profiles["column"] == "user_clicks_1d")]
print(served[["window", "rows", "null_share", "q50", "psi"]].tail(4).to_string(index=False))
for alert in judged.alerts:
    print(f"{alert.severity}: {alert.text}")
assert {alert.window_us for alert in judged.alerts} == {max(judged.windows)}
assert {"user_clicks_1d", "clicked_last"} <= {alert.column for alert in judged.alerts}
