#!/usr/bin/env bash
# Usage, at the root: bash test_tipc/prepare.sh <txt> <MODE>
source test_tipc/harness/entry.sh
run_tipc prepare "$@"
