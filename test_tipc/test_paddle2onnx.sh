#!/usr/bin/env bash
# Usage, at the root: bash test_tipc/test_paddle2onnx.sh <txt> [paddle2onnx_infer]
source test_tipc/harness/entry.sh
run_tipc paddle2onnx "$@"
