extension Launcher {
    /// Which command of which image is meant, whether this CPU runs it, and what of the host it shall see.
    static let choice =
        #"""
        #!/bin/sh
        # Sciferry launcher 3. Every command of a site leads here, so a fix here reaches all of them.
        #
        # SCIFERRY_RUNTIME   apptainer, singularity, bwrap, podman or docker (default: the first that works here)
        # SCIFERRY_BIND      further directories to show inside, separated by colons
        # SCIFERRY_ENV       names of further variables that count for more than the image's, separated by spaces
        # SCIFERRY_TARGET    take the image of this CPU target, whatever this CPU is
        # SCIFERRY_CONTAIN   set: show nothing of the host but the working directory, pass no environment; strict: nothing else can be
        #                    written either
        # SCIFERRY_NETWORK   none: no network inside; of contained calls alone, as is the next
        # SCIFERRY_TEMPORARY a directory that is /tmp inside
        # SCIFERRY_MOUNTS    where images are mounted
        # SCIFERRY_IDLE      seconds after the last call until a mounted image is let go (600)
        #
        # Names of its own begin with an underscore: what the user exports must arrive inside as it is.
        set -u
        _version=3
        # Modules put wrappers first, which may have the names of programs that are used here: they would lead here again.
        _rest=${PATH:-/usr/bin:/bin}: _found=
        while [ -n "$_rest" ]; do
            _place=${_rest%%:*} _rest=${_rest#*:}
            if [ -n "$_place" ] && ! [ -e "$_place/../tool.json" ]; then _found=$_found${_found:+:}$_place; fi
        done
        export PATH="$_found"
        fail() {
            printf 'sciferry: %s\n' "$1" >&2
            exit "${2:-126}"
        }

        # --- What sites, tools and images say of themselves, in files named launch: one call of these in each line.
        _overridable='SUBJECTS_DIR FS_LICENSE FSLOUTPUTTYPE TMPDIR TZ OMP_NUM_THREADS MKL_NUM_THREADS OPENBLAS_NUM_THREADS
        NUMEXPR_NUM_THREADS ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS MLM_LICENSE_FILE LM_LICENSE_FILE'
        _digest='' _offered='' _cpu='' _lacks='' _offset='' _own='' _arguments='' _runtime='' _bind='' _gpu=auto
        # Variables that may name a file or a directory of the host.
        _files='SUBJECTS_DIR FS_LICENSE MLM_LICENSE_FILE LM_LICENSE_FILE'
        # Which runtime the site wants; which of its directories every call shows; whether GPUs are looked for (auto, off).
        runtime() { _runtime=$1; }
        bind() { _bind=$_bind:$1; }
        gpu() { _gpu=$1; }
        # Where the file system lies in the image; which directories of its root hold more than a host's could hide; words for Apptainer.
        offset() { _offset=$1; }
        own() { _own=$1; }
        arguments() { _arguments=$1; }
        # Variables that count for more than the image's when the user has set them.
        overridable() { _overridable="$_overridable $1"; }
        # A variable that the site sets unless the user has. A value @SITE@/… is a path in the site.
        default() {
            overridable "$1"
            _files="$_files $1"
            if eval "[ -z \"\${$1+set}\" ]"; then
                case $2 in
                @SITE@/*)
                    _place=$(cd -P -- "$_site" && pwd -P) || fail "the site of $_command is gone"
                    export "$1=$_place/${2#@SITE@/}"
                    ;;
                *) export "$1=$2" ;;
                esac
            fi
        }
        # offer TARGET FAMILY VENDOR FEATURES DIGEST: an image of the command; best first. The first that this CPU runs is taken.
        offer() {
            [ -z "$_digest" ] || return 0
            _offered="$_offered $1"
            if [ -n "${SCIFERRY_TARGET:-}" ]; then
                [ "$1" != "$SCIFERRY_TARGET" ] || _digest=$5
                return 0
            fi
            [ -n "$_cpu" ] || read_cpu
            if [ "$2" != "$_cpu" ]; then _lacks="is no $2"; return 0; fi
            if [ "$3" != - ] && [ "$3" != "$_vendor" ]; then _lacks="is not of $3"; return 0; fi
            for _feature in $4; do
                case $_flags in *" $_feature "*) ;; *) _lacks="lacks $_feature"; return 0 ;; esac
            done
            _digest=$5
        }
        # What this CPU is: the first processor that the kernel lists.
        read_cpu() {
            _cpu=unknown _vendor=unknown _flags=' '
            while IFS= read -r _line; do
                case $_line in
                vendor_id* | 'CPU implementer'*) _vendor=${_line#*: } ;;
                flags*)
                    _flags=" ${_line#*: } "
                    case $_flags in *' lm '*) _cpu=x86_64 ;; esac
                    break
                    ;;
                Features*) _flags=" ${_line#*: } " _cpu=aarch64 ;;
                '') break ;;
                esac
            done </proc/cpuinfo
            [ "$_cpu" != unknown ] || _cpu=$(uname -m)
        }

        usable_bwrap() {
            command -v bwrap >/dev/null 2>&1 && command -v nsenter >/dev/null 2>&1 || return 1
            if [ -w /dev/fuse ]; then command -v squashfuse_ll >/dev/null 2>&1 || command -v squashfuse >/dev/null 2>&1; else [ "$(id -u)" = 0 ]; fi
        }
        find_runtime() {
            _runtime=${SCIFERRY_RUNTIME:-$_runtime}
            if [ -n "$_runtime" ]; then return 0
            elif command -v apptainer >/dev/null 2>&1; then _runtime=apptainer
            elif command -v singularity >/dev/null 2>&1; then _runtime=singularity
            elif usable_bwrap; then _runtime=bwrap
            fi
        }

        # --- Which command, and of which image: from the link's place, or from the arguments.
        _self=$0
        case $_self in
        */*) ;;
        *) _self=$(command -v -- "$_self") || fail "cannot find myself" ;;
        esac
        _here=${_self%/*}
        if [ "${_self##*/}" = sciferry-launch ]; then
            _site=$_here/..
            case ${1:-} in
            --version)
                echo "sciferry-launch $_version"
                exit 0
                ;;
            --runtime)
                if [ -r "$_site/launch" ]; then . "$_site/launch"; fi
                find_runtime
                [ -n "$_runtime" ] || exit 1
                echo "$_runtime"
                exit 0
                ;;
            esac
            [ $# -ge 2 ] || fail "usage: sciferry-launch DIRECTORY COMMAND [ARGUMENT...], where DIRECTORY is that of a tool or of an image" 64
            _tool=$1
            _command=$2
            shift 2
        else
            _tool=$_here/..
            # Somebody's own link to a wrapper.
            while [ ! -e "$_tool/launch" ] && [ -L "$_self" ]; do
                _target=$(readlink "$_self")
                case ${_target##*/} in sciferry-launch) break ;; esac
                case $_target in /*) _self=$_target ;; *) _self=$_here/$_target ;; esac
                _here=${_self%/*} _tool=${_self%/*}/..
            done
            _site=$_tool/../../..
            _command=${_self##*/}
        fi
        [ ! -d /.singularity.d ] || fail "$_command: there are no containers inside a container; call it outside"
        if [ -r "$_site/launch" ]; then . "$_site/launch"; fi
        if [ -e "$_tool/image.sif" ]; then
            _folder=$_tool
        else
            [ -r "$_tool/launch" ] || fail "the image of $_command is gone: $_tool" 127
            . "$_tool/launch"
            if [ -z "$_digest" ]; then
                [ -z "${SCIFERRY_TARGET:-}" ] || fail "$_command has no image for $SCIFERRY_TARGET; it has:$_offered"
                fail "$_command cannot run here: this CPU $_lacks; there are images for:$_offered. Ask for one: sciferry build NAME --for TARGET"
            fi
            _folder=$_tool/../../../images/$_digest
        fi
        _image=$_folder/image.sif
        [ -r "$_image" ] || fail "the image of $_command cannot be read: $_image" 127
        [ -r "$_folder/launch" ] || fail "the image of $_command is incomplete: $_folder/launch" 127
        . "$_folder/launch"
        find_runtime
        [ -n "$_runtime" ] || fail "$_command needs something to run images with: install apptainer, or squashfuse and bubblewrap" 127

        # --- The working directory, as it is and as the user names it.
        _logical=${PWD:-}
        case $_logical in
        /*) [ "$_logical" -ef . ] || _logical= ;;
        *) _logical= ;;
        esac
        # By `cd`, because `$(pwd -P)` costs a process.
        if cd -P . 2>/dev/null && [ -d "${PWD:-}" ] && [ "$PWD" -ef . ]; then _physical=$PWD
        elif _physical=$(pwd -P 2>/dev/null) && [ -d "$_physical" ]; then :
        else fail "$_command: the working directory is gone; go to one that is there"; fi
        [ -n "$_logical" ] || _logical=$_physical

        # --- Host settings that would lead tools astray inside.
        overridable "${SCIFERRY_ENV:-}"
        for _name in PYTHONPATH PYTHONHOME PYTHONSTARTUP PERL5LIB PERL5OPT R_LIBS R_LIBS_USER R_LIBS_SITE R_HOME R_PROFILE R_ENVIRON \
            LD_LIBRARY_PATH LD_PRELOAD LD_AUDIT JULIA_LOAD_PATH JULIA_DEPOT_PATH JULIA_PROJECT CONDA_PREFIX CONDA_DEFAULT_ENV \
            VIRTUAL_ENV RUBYLIB GEM_HOME GEM_PATH NODE_PATH TCLLIBPATH GCONV_PATH QT_PLUGIN_PATH GTK_PATH BASH_ENV ENV; do
            # Who names one of them means it.
            case " $_overridable " in *" $_name "*) ;; *) unset "$_name" ;; esac
        done
        PYTHONNOUSERSITE=1
        export PYTHONNOUSERSITE

        # --- What of the host is shown inside: every directory of its root that is neither the system's nor the image's own.
        _system='/bin /boot /dev /etc /init /lib /lib32 /lib64 /libx32 /lost+found /opt /proc /run /sbin /snap /sys /usr /var'
        _hosts=
        for _directory in /*; do
            case " $_system $_own " in *" $_directory "*) continue ;; esac
            case $_directory in *[!A-Za-z0-9_./+-]*) continue ;; esac
            [ ! -d "$_directory" ] || _hosts="$_hosts $_directory"
        done
        # Whether a path lies there.
        shown() {
            _rest=${1#/}
            case " $_hosts " in *" /${_rest%%/*} "*) return 0 ;; esac
            case $1 in /var/tmp | /var/tmp/*) return 0 ;; esac
            return 1
        }
        # What is asked for and lies elsewhere, one in a line.
        _extras=
        show() {
            shown "$1" && return 0
            case "$_extras
        " in *"
        $1
        "*) return 0 ;; esac
            _extras="$_extras
        $1"
        }
        _old_ifs=$IFS
        IFS=:
        set -f
        for _directory in ${SCIFERRY_BIND:-} $_bind ${TMPDIR:-} ${WAYLAND_DISPLAY:+${XDG_RUNTIME_DIR:-}}; do
            case $_directory in /*) [ ! -d "$_directory" ] || show "$_directory" ;; esac
        done
        set +f
        IFS=$_old_ifs
        _value=''
        for _name in $_files; do
            eval "_value=\${$_name:-}"
            # Not what would hide a whole directory of the image.
            case $_value in /*/*) if [ -f "$_value" ] || { [ -d "$_value" ] && [ "${_value#/*/*/}" != "$_value" ]; }; then show "$_value"; fi ;; esac
        done
        case ${XAUTHORITY:-} in
        /*) if [ -r "$XAUTHORITY" ]; then show "$XAUTHORITY"; else unset XAUTHORITY; fi ;;
        esac
        for _directory in "$_physical" "$_logical"; do
            case $_directory in
            /) ;;
            /bin | /boot | /dev | /etc | /lib | /lib64 | /opt | /proc | /run | /sbin | /sys | /usr | /var | \
                /bin/* | /boot/* | /dev/* | /etc/* | /lib/* | /lib64/* | /proc/* | /sbin/* | /sys/* | /usr/*)
                case ":${SCIFERRY_BIND:-}:" in *":$_directory:"*) continue ;; esac
                shown "$_directory" ||
                    fail "$_command cannot run in $_directory: inside, that directory is the image's own; work elsewhere"
                ;;
            *) show "$_directory" ;;
            esac
        done

        # What a call does inside: into the working directory as the user names it, and what is no command ends with 127.
        _entry='cd -- "$1" 2>/dev/null || { echo "sciferry: $2: the working directory cannot be entered inside: $1" >&2; exit 126; }
        shift
        command -v -- "$1" >/dev/null 2>&1 || { echo "sciferry: $1: not in this image" >&2; exit 127; }
        exec "$@"'
        """#
}
