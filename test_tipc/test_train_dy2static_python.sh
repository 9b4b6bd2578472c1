#!/usr/bin/env bash
# Usage, at the root: bash test_tipc/test_train_dy2static_python.sh <txt>
source test_tipc/harness/entry.sh
run_tipc dy2static "$@"
