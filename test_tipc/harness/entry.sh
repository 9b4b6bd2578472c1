# What the scripts above share. They hold no logic: everything is in tipc.py.
run_tipc() {
    local python="${TIPC_PYTHON:-}"
    if [ -z "$python" ]; then
        python=python3
        if [ -x .venv/bin/python ]; then python=.venv/bin/python; fi
        # A `python` of the caller that knows Paddle is what line 3 of the txt files means.
        if python -c 'import importlib.util as u, sys; sys.exit(u.find_spec("paddle") is None)' 2>/dev/null; then
            python=python
        fi
    fi
    "$python" test_tipc/tipc.py "$@"
}
