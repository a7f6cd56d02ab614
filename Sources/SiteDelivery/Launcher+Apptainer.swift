extension Launcher {
    /// Calls through Apptainer and Singularity, and the words that all runtimes are given.
    static let apptainer =
        #"""
        # replaced TEXT CHARACTER BY: every character by others.
        replaced() {
            _replaced=$1
            case $1 in *"$2"*) ;; *) return 0 ;; esac
            _replaced='' _rest=$1
            while :; do
                case $_rest in
                *"$2"*)
                    _replaced=$_replaced${_rest%%"$2"*}$3
                    _rest=${_rest#*"$2"}
                    ;;
                *) break ;;
                esac
            done
            _replaced=$_replaced$_rest
        }
        # add WORD…: words for the runtime, quoted for the shell.
        _words=
        add() {
            for _word in "$@"; do
                replaced "$_word" "'" "'\\''"
                _words="$_words '$_replaced'"
            done
        }
        # each LIST FUNCTION: calls it with each line but the first, which is empty.
        each() {
            _list=$1
            while [ -n "$_list" ]; do
                _list=${_list#?}
                _line=${_list%%
        *}
                _list=${_list#"$_line"}
                "$2" "$_line"
            done
        }

        # --- Apptainer and Singularity.
        add_mount() {
            replaced "$1" '"' '""'
            add --mount "type=bind,\"src=$_replaced\",\"dst=$_replaced\""
        }
        case $_runtime in
        apptainer | singularity)
            if [ -n "${SCIFERRY_CONTAIN:-}" ]; then
                add --containall --no-privs
                [ "$SCIFERRY_CONTAIN" = strict ] || add --writable-tmpfs
                # By these whoever tests finds what is left, and what holds how much memory.
                for _name in SCIFERRY_TEST SCIFERRY_ATTEMPT SCIFERRY_WORKER; do
                    eval "[ -z \"\${$_name+set}\" ] || export APPTAINERENV_$_name=\"\$$_name\" SINGULARITYENV_$_name=\"\$$_name\""
                done
                [ "${SCIFERRY_NETWORK:-}" != none ] || add --net --network none
                if [ -n "${SCIFERRY_TEMPORARY:-}" ]; then
                    replaced "$SCIFERRY_TEMPORARY" '"' '""'
                    add --mount "type=bind,\"src=$_replaced\",dst=/tmp"
                fi
                add_mount "$_physical"
            else
                for _name in $_overridable; do
                    case $_name in [0-9]* | *[!A-Za-z0-9_]*) continue ;; esac
                    eval "[ -z \"\${$_name+set}\" ] || export APPTAINERENV_$_name=\"\$$_name\" SINGULARITYENV_$_name=\"\$$_name\""
                done
                # Set for other tools, these would lead the image's own programs astray.
                for _name in PATH PREPEND_PATH APPEND_PATH LD_LIBRARY_PATH; do unset "APPTAINERENV_$_name" "SINGULARITYENV_$_name"; done
                for _directory in $_hosts; do
                    [ "$_directory" = /tmp ] || _words="$_words --mount type=bind,src=$_directory,dst=$_directory"
                done
                each "$_extras" add_mount
                if [ "$_gpu" = auto ]; then
                    [ ! -e /dev/nvidiactl ] || add --nv
                    [ ! -e /dev/kfd ] || add --rocm
                fi
                # GPUs are looked for above, whatever a recipe says.
                for _word in $_arguments; do case $_word in --nv | --rocm) ;; *) add "$_word" ;; esac; done
            fi
            add --pwd "$_physical" "$_image"
            eval "exec \"\$_runtime\" --silent exec --no-eval $_words /bin/sh -c \"\$_entry\" sciferry \"\$_logical\" \"\$_command\" \"\$@\""
            ;;
        bwrap | podman | docker) ;;
        *) fail "SCIFERRY_RUNTIME=$_runtime is none of apptainer, singularity, bwrap, podman, docker" 64 ;;
        esac
        """#
}
