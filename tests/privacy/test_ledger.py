import errno
import hashlib
import itertools
import json
import os
import signal
import subprocess
import sys

import dp_accounting
import numpy as np
import pytest
import rfc8785
from conftest_privacy import make_event, make_header, make_key
from dp_accounting.pld import PLDAccountant

from mmfed.errors import ExitCode, MmfedError
from mmfed.privacy.accounting import epsilon
from mmfed.privacy.ledger import Ledger, header_for, result_hash
from mmfed.privacy.units import guarantee_for
