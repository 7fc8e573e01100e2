#!/bin/sh
# What both targets of the Dockerfile install, on Debian or Ubuntu. Environment: TORCH, TORCH_INDEX, RUNNER_UID.
#
# Two Pythons, as everywhere: /opt/mltiers runs the orchestrator with what its lock says and nothing else, /opt/tests is
# the one that runs the tests and is the user's to fill (`python` on PATH, writable by the user).
set -eu

export DEBIAN_FRONTEND=noninteractive
apt-get update
apt-get install --yes --no-install-recommends ca-certificates git python3 python3-venv tini
rm -rf /var/lib/apt/lists/*

# Ubuntu's images have a user of their own with the first free number.
if name=$(getent passwd "$RUNNER_UID" | cut -d: -f1) && [ -n "$name" ]; then userdel --remove "$name" 2> /dev/null || true; fi
useradd --create-home --uid "$RUNNER_UID" --shell /bin/bash runner

python3 -m venv /opt/mltiers
/opt/mltiers/bin/python -m pip install --no-cache-dir --require-hashes --only-binary=:all: --requirement /wheels/action.txt
/opt/mltiers/bin/python -m pip install --no-cache-dir --no-deps --no-index /wheels/mltiers-*.whl
ln -s /opt/mltiers/bin/mltiers /usr/local/bin/mltiers

python3 -m venv /opt/tests
if [ -n "$TORCH" ]; then
  # shellcheck disable=SC2086 -- several packages may be named
  /opt/tests/bin/python -m pip install --no-cache-dir ${TORCH_INDEX:+--extra-index-url "$TORCH_INDEX"} $TORCH
fi
/opt/tests/bin/python -m pip install --no-cache-dir \
  /wheels/pytest_mltiers-*.whl 'pytest>=8' 'pytest-xdist>=3.6' 'pytest-cov>=6' 'pytest-benchmark>=5'
chown -R runner:runner /opt/tests
