#!/usr/bin/env bash
# scipy 1.17.1: the noncentral t distribution is NaN, or wrong in the second digit, from a noncentrality of 10^6 on.
#
# Two degrees of freedom, the probability above half of the noncentrality: the normal part no longer counts, so it is
# that of a chi-squared below 8, which is 1 - exp(-4) = 0.98168. `special.nctdtr` returns NaN without a warning, so
# that a search for the sample size of a test never ends; `stats.nct.sf` warns of a series that did not converge, and
# returns the closest value. Up to 10^5 both are right.
#
# Seen on Linux, Python 3.11:
#   100000: nctdtr 0.98168, sf 0.98168, right is 0.98168
#   1000000: nctdtr nan, sf 0.99084, right is 0.98168
#   100000000: nctdtr nan, sf 0.90415, right is 0.98168
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check scipy==1.17.1 numpy==2.2.6
"$folder/venv/bin/python" -W ignore - <<'PYTHON'
import math

from scipy import special, stats

for shift in (10**5, 10**6, 10**8):
    above = 1 - special.nctdtr(2, shift, shift / 2)
    print(f"{shift}: nctdtr {above:.5f}, sf {stats.nct.sf(shift / 2, 2, shift):.5f}, right is {1 - math.exp(-4):.5f}")
PYTHON
