# %% [markdown]
# # A news log in pandas
#
# A site shows each visitor a list of articles and keeps a table of impressions, in the form that the MIND news data
# set made known: one row for each impression, with the articles that were shown and whether each was clicked. Here it
# becomes point-in-time training samples, in pandas from end to end.
#
# With `NEWS_LOG=FILE` this reads a `behaviors.tsv` of that form; without it, a small log of the same form is made.

# %%
import os
import random
import subprocess
import sys
import tempfile
from datetime import datetime, timedelta
from pathlib import Path

import pandas as pd

from dovetail.sdk import load

COLUMNS = ["impression", "user", "time", "history", "shown"]
DOVETAIL = Path(sys.executable).parent / "dovetail"
folder = Path(tempfile.mkdtemp(prefix="dovetail-news-"))


def made_log(impressions: int = 400) -> pd.DataFrame:
    """A log in the form of MIND: users like one topic of ten, and an article is of the topic of its last digit."""
    chance, now, rows = random.Random(7), datetime(2019, 11, 11, 6), []
    for number in range(impressions):
        now += timedelta(seconds=chance.expovariate(1 / 90))
        user = chance.randrange(40)
        shown = chance.sample(range(100), 8)
        clicked = [chance.random() < (0.4 if article % 10 == user % 10 else 0.05) for article in shown]
        listed = " ".join(f"N{article}-{int(click)}" for article, click in zip(shown, clicked, strict=True))
        rows.append([number, f"U{user}", now.strftime("%m/%d/%Y %I:%M:%S %p"), "", listed])
    return pd.DataFrame(rows, columns=COLUMNS)


given = os.environ.get("NEWS_LOG")
log = pd.read_csv(given, sep="\t", names=COLUMNS) if given else made_log()
print(log.head(3).to_string())

# %% [markdown]
# ## A row per article shown
#
# The log says when a list was shown, not when a click came. Ten seconds is a guess, and the same for all of them: what
# a click adds to a user's features, it adds to later impressions only.

# %%
log["time"] = pd.to_datetime(log["time"], format="%m/%d/%Y %I:%M:%S %p")
rows = log.assign(shown=log["shown"].str.split()).explode("shown", ignore_index=True)
rows[["item_id", "clicked"]] = rows["shown"].str.rsplit("-", n=1, expand=True)
rows = pd.DataFrame(
    {
        "request_id": "r" + rows["impression"].astype(str),
        "user_id": rows["user"],
        "item_id": rows["item_id"],
        "event_time": rows["time"],
        "clicked": rows["clicked"] == "1",
    }
)
clicks = rows[rows["clicked"]].assign(event_time=lambda each: each["event_time"] + pd.Timedelta(seconds=10))
print(f"{len(log):,} impressions, {len(rows):,} articles shown, {len(clicks):,} clicked")

# %% [markdown]
# ## Replayed
#
# `dovetail init --minimal` makes a project with what users clicked and what articles were clicked as views. The log is
# replayed in event time: each impression is a request, answered from what had been clicked before it.

# %%
project_folder = folder / "project"
subprocess.run([DOVETAIL, "init", "--minimal", project_folder], check=True)
requests = rows.groupby("request_id", sort=False).agg(
    user_id=("user_id", "first"), request_time=("event_time", "first"), candidates=("item_id", list)
)
requests["candidates"] = [[{"item_id": item} for item in items] for items in requests["candidates"]]
requests.reset_index().to_parquet(folder / "requests.parquet")
rows.drop(columns=["user_id", "clicked"]).to_parquet(folder / "exposure.parquet")
clicks.drop(columns=["user_id", "clicked"]).to_parquet(folder / "click.parquet")
clicks.drop(columns=["request_id", "clicked"]).to_parquet(folder / "events.parquet")
subprocess.run(
    [
        *(DOVETAIL, "replay", "--until-idle", "--project", project_folder),
        *("--requests", folder / "requests.parquet", "--stream", f"events={folder / 'events.parquet'}"),
        *("--labels", f"exposure={folder / 'exposure.parquet'}", "--labels", f"click={folder / 'click.parquet'}"),
    ],
    check=True,
)

# %% [markdown]
# ## Samples
#
# A sample for each article that was shown, with its features as they were then, and its label.

# %%
project = load(project_folder)
samples = project.samples().to_pandas()
samples["known_user"] = samples["user_clicks_1d"].fillna(0) > 2
print(samples.groupby("known_user")["label"].agg(["size", "mean"]).to_string())
assert len(samples) == len(rows)
assert samples["label"].sum() == len(clicks)

# %% [markdown]
# ## Nothing of the future
#
# The count that each sample has of its user's clicks is compared with one that pandas makes from the log: clicks
# before the request, within a day. That is the mistake which is easy to make by a join on the user, and a model that
# is trained on it looks good and is not.

# %%
pairs = samples[["request_id", "item_id", "user_clicks_1d"]].merge(rows, on=["request_id", "item_id"])
joined = pairs.merge(clicks[["user_id", "event_time"]], on="user_id", how="left", suffixes=("", "_of_click"))
age = joined["event_time"] - joined["event_time_of_click"]
joined["before"] = (age >= pd.Timedelta(0)) & (age <= pd.Timedelta(days=1))
counted = joined.groupby(["request_id", "item_id"])["before"].sum()
served = pairs.set_index(["request_id", "item_id"])["user_clicks_1d"].fillna(0)
assert (served.sort_index() == counted.sort_index()).all()
leaking = joined["event_time_of_click"].notna().groupby([joined["request_id"], joined["item_id"]]).sum()
print(
    f"{len(served):,} samples agree; a join without times would have been wrong for {(leaking != counted).mean():.0%}"
)
