"""The scripts of `docs/` are no package: make them importable for these tests."""

import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "docs"))

LESSON = """\
# %% [markdown]
# # 0. A very small lesson
#
# Some text, and a formula: $x^2$.

# %%
for word in ["one", "two"]:
    print(word)

# %% [markdown]
# ## What you will be able to do
# ## The idea
# ## Build it
# ## Predict, then run
# ## Look

# %%
import matplotlib.pyplot as plt

plt.plot([1, 2])
plt.show()

# %% [markdown]
# ## Exercises

# %% tags=["answer"]
print("first answer")

# %% tags=["answer"]
1 + 1 == 2

# %% tags=["answer"]
# The third answer is a comment.

# %% [markdown]
# ## What the real system does that this does not
# ## Sources
# A paper, 2017.
"""


@pytest.fixture
def root() -> Path:
    """The root of the repository."""
    return ROOT


@pytest.fixture
def lesson_source() -> str:
    """The source of a lesson whose form has no fault."""
    return LESSON
