# Nothing here uses this file. PaddleSeg's own scripts do: put in place of ours, alone or all of them, they find the
# functions below by these names and run the same txt files.

# "key:value" -> key
func_parser_key() {
    printf '%s\n' "${1%%:*}"
}

# "key:value:anything" -> value
func_parser_value() {
    case "$1" in
        *:*) local rest="${1#*:}"; printf '%s\n' "${rest%%:*}" ;;
        *) printf '\n' ;;
    esac
}

func_parser_key_cpp() {
    func_parser_key "$1"
}

func_parser_value_cpp() {
    func_parser_value "$1"
}

# key and value -> "key=value", or a blank if one of them is null or the value is empty
func_set_params() {
    if [ "$1" = null ] || [ "$2" = null ] || [ -z "${2// /}" ]; then
        printf ' \n'
    else
        printf '%s\n' "$1=$2"
    fi
}

# "key:mode=value|mode=value" -> the value of $MODE, or nothing
func_parser_params() {
    local items item
    IFS='|' read -r -a items <<< "$(func_parser_value "$1")"
    for item in "${items[@]}"; do
        if [ "${item%%=*}" = "$MODE" ] && [ "$item" != "${item#*=}" ]; then
            printf '%s\n' "${item#*=}"
            return 0
        fi
    done
    printf '\n'
}

# exit status, command, file of status lines, model, log -> the line that CI greps
status_check() {
    local word=failed
    if [ "$1" -eq 0 ]; then word=successfully; fi
    printf '\033[33m Run %s with command - %s - %s - %s  \033[0m\n' "$word" "$4" "$2" "$5" | tee -a "$3"
}

# candidates and, last, what is looked for -> y or n, and the status to go with it
contains() {
    local wanted="${*: -1}" candidate
    for candidate in "${@:1:$#-1}"; do
        if [ "$candidate" = "$wanted" ]; then
            echo y
            return 0
        fi
    done
    echo n
    return 1
}

# the last argument, cut at ";", into the array extra_args
parse_extra_args() {
    IFS=';' read -r -a extra_args <<< "${*: -1}"
}

# "a/b.txt" "_x" -> "a/b_x.txt"
add_suffix() {
    printf '%s\n' "${1%.*}$2.${1##*.}"
}

# run a command, its output also into a log if one is named; its own exit status
run_command() {
    if [ -z "$2" ]; then
        eval "$1"
        return
    fi
    eval "$1" 2>&1 | tee "$2"
    return "${PIPESTATUS[0]}"
}
