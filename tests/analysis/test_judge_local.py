"""A tiny random LMM as judge, through the command line: whole replies, resumed, refused."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from analysis import scores
from lmmsteer.engine.edit import Edit
from lmmsteer.engine.reference import Reference
from lmmsteer.engine.sampling import Sampling
from lmmsteer.engine.shared import Shared
from lmmsteer.fleet import asking
from lmmsteer.fleet.asking import BLIND, LocalModel
from lmmsteer.json_lines import read_lines
from lmmsteer.store import LocalStore
from tests.analysis import build
from tests.conftest import Command
from tests.engine.oracle import plain
from tests.engine.runs import PROMPTS, rows, run
from tests.tiny import save_tiny_llava, tiny_llava, tiny_lmm
