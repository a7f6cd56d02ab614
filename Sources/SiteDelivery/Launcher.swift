/// The one program that all wrappers lead to: a POSIX shell script, because site machines have old C libraries.
///
/// It is called as `sciferry-launch IMAGE-DIRECTORY COMMAND [ARGUMENT…]`, or through a wrapper, a symbolic link named
/// like a command that stands in `wrappers/NAME/VERSION/bin`. It always replaces itself by the runtime, so signals and
/// exit codes are the tool's own.
package enum Launcher {
    /// The script; called with `--runtime` it prints the runtime that it would take.
    package static let script =
        #"""
        #!/bin/sh
        # Sciferry launcher. One for all images: a fix here reaches every wrapper.
        #
        # SCIFERRY_RUNTIME   apptainer, singularity, squashfuse or kernel (default: the first that works)
        # SCIFERRY_BIND      further directories to show inside, separated by colons
        # SCIFERRY_CONTAIN   set: show nothing of the host but the working directory, pass no environment
        # SCIFERRY_MOUNTS    where squashfuse and kernel mounts are kept
        set -u
        fail() {
            echo "sciferry: $1" >&2
            exit "${2:-126}"
        }

        find_runtime() {
            if command -v apptainer >/dev/null 2>&1; then echo apptainer
            elif command -v singularity >/dev/null 2>&1; then echo singularity
            elif command -v bwrap >/dev/null 2>&1 && command -v squashfuse >/dev/null 2>&1 && [ -w /dev/fuse ]; then echo squashfuse
            elif command -v bwrap >/dev/null 2>&1 && [ "$(id -u)" = 0 ]; then echo kernel
            fi
        }

        # Which image and which command: from the link's place, or from the arguments.
        self=$0
        case $self in
        */*) ;;
        *) self=$(command -v -- "$self") || fail "cannot find myself" ;;
        esac
        here=$(cd -P -- "$(dirname -- "$self")" && pwd -P) || fail "cannot find myself"
        if [ "${self##*/}" = sciferry-launch ]; then
            if [ "${1:-}" = --runtime ]; then
                runtime=${SCIFERRY_RUNTIME:-$(find_runtime)}
                [ -n "$runtime" ] || exit 1
                echo "$runtime"
                exit 0
            fi
            [ $# -ge 2 ] || fail "usage: sciferry-launch IMAGE-DIRECTORY COMMAND [ARGUMENT...]" 64
            image_dir=$1
            command=$2
            shift 2
        else
            image_dir=$here/../image
            command=${self##*/}
        fi
        [ -z "${SCIFERRY_INSIDE:-}" ] || fail "$command: there are no containers inside a container"
        image_dir=$(cd -P -- "$image_dir" 2>/dev/null && pwd -P) || fail "the image of $command is gone: $image_dir" 127
        image=$image_dir/image.sif
        [ -r "$image" ] || fail "the image of $command cannot be read: $image" 127

        # The working directory, as it is and as the user names it.
        physical=$(pwd -P 2>/dev/null) || fail "the working directory is gone"
        logical=${PWD:-$physical}

        runtime=${SCIFERRY_RUNTIME:-$(find_runtime)}
        [ -n "$runtime" ] || fail "$command needs a container runtime: install apptainer, or squashfuse and bubblewrap" 127

        # Host settings that would lead tools astray inside.
        unset PYTHONPATH PYTHONHOME PERL5LIB PERL5OPT R_LIBS R_LIBS_USER R_LIBS_SITE LD_LIBRARY_PATH LD_PRELOAD \
            JULIA_LOAD_PATH JULIA_DEPOT_PATH CONDA_PREFIX VIRTUAL_ENV
        PYTHONNOUSERSITE=1
        SCIFERRY_INSIDE=1
        export PYTHONNOUSERSITE SCIFERRY_INSIDE

        first_part() { printf '/%s' "$(printf %s "${1#/}" | cut -d/ -f1)"; }

        case $runtime in
        apptainer | singularity)
            set -- "$image" "$command" "$@"
            old_ifs=$IFS
            IFS=:
            set -f
            for extra in ${SCIFERRY_BIND:-} ${TMPDIR:-}; do
                [ -d "$extra" ] && set -- --mount "type=bind,\"src=$extra\",\"dst=$extra\"" "$@"
            done
            set +f
            IFS=$old_ifs
            [ "$logical" = "$physical" ] || set -- --mount "type=bind,\"src=$physical\",\"dst=$logical\"" "$@"
            [ -e /dev/nvidiactl ] && set -- --nv "$@"
            [ -e /dev/kfd ] && set -- --rocm "$@"
            set -- --mount "type=bind,\"src=$physical\",\"dst=$physical\"" --pwd "$physical" "$@"
            [ -z "${SCIFERRY_CONTAIN:-}" ] || set -- --containall --no-privs --writable-tmpfs "$@"
            exec "$runtime" --silent exec --no-eval "$@"
            ;;
        squashfuse | kernel) ;;
        *) fail "SCIFERRY_RUNTIME=$runtime is none of apptainer, singularity, squashfuse, kernel" 64 ;;
        esac

        # Mounted once for each user and image; later calls find it mounted.
        offset=$(cat "$image_dir/offset") || fail "the image of $command is incomplete: $image_dir/offset" 127
        mounts=${SCIFERRY_MOUNTS:-${XDG_RUNTIME_DIR:-/tmp}/sciferry-mounts-$(id -u)}
        root=$mounts/${image_dir##*/}
        # Whose directory it is comes first: anybody could have put a tree of their own there.
        (umask 077 && mkdir -p "$mounts") || fail "cannot make $mounts"
        if [ -L "$mounts" ] || [ "$(stat -c %u "$mounts")" != "$(id -u)" ]; then fail "$mounts belongs to somebody else"; fi
        chmod 700 "$mounts" || fail "cannot protect $mounts"
        if ! [ -e "$root/.singularity.d" ]; then
            exec 9>"$mounts/.lock"
            if command -v flock >/dev/null 2>&1; then flock 9; fi
            if ! [ -e "$root/.singularity.d" ]; then
                # A mount whose server was killed must go before a new one can come.
                [ "$runtime" = kernel ] || fusermount -u -z "$root" >/dev/null 2>&1
                mkdir -p "$root" || fail "cannot make $root"
                if [ "$runtime" = kernel ]; then
                    mount -t squashfs -o "ro,loop,offset=$offset" "$image" "$root" || fail "cannot mount $image"
                else
                    squashfuse -o "offset=$offset,ro" "$image" "$root" 9>&- >/dev/null 2>&1 ||
                        fail "cannot mount $image through squashfuse"
                fi
            fi
            exec 9>&-
        fi

        # Put together from the last to the first, because set -- puts each in front.
        set -- -- /bin/sh -c '
            for script in /.singularity.d/env/*.sh; do [ -r "$script" ] && . "$script"; done
            command -v -- "$1" >/dev/null 2>&1 || { echo "sciferry: $1: not in this image" >&2; exit 127; }
            exec "$@"' sciferry "$command" "$@"
        set -- --chdir "$physical" "$@"

        # Host directories that hold the user's data take the place of the image's.
        hosts=" /tmp"
        if [ -n "${SCIFERRY_CONTAIN:-}" ]; then
            # For tests of strangers' images: the working directory and nothing else of the host.
            set -- --tmpfs /tmp --bind "$physical" "$physical" --clearenv --setenv HOME "$physical" \
                --setenv PWD "$physical" --setenv LANG C.UTF-8 --setenv SCIFERRY_INSIDE 1 --setenv SCIFERRY_TEST "${SCIFERRY_TEST:-}" \
                --setenv SCIFERRY_ATTEMPT "${SCIFERRY_ATTEMPT:-}" --setenv SCIFERRY_WORKER "${SCIFERRY_WORKER:-}" "$@"
        else
            for directory in /home /root /mnt /media /data /scratch /project /projects /work /srv; do
                [ -d "$directory" ] && hosts="$hosts $directory"
            done
            first=$(first_part "$physical")
            case "$hosts " in
            *" $first "*) ;;
            *)
                case $first in
                / | /usr | /bin | /sbin | /lib | /lib32 | /lib64 | /libx32 | /etc | /opt | /var | /run | /proc | /sys | /dev | /boot)
                    bound=
                    case :${SCIFERRY_BIND:-}: in *":$physical:"*) bound=yes ;; esac
                    [ -n "$bound" ] || fail "$command cannot run in $physical: inside, that directory belongs to the image; work elsewhere"
                    ;;
                *) hosts="$hosts $first" ;;
                esac
                ;;
            esac
            old_ifs=$IFS
            IFS=:
            set -f
            for extra in ${SCIFERRY_BIND:-} ${TMPDIR:-}; do
                [ -d "$extra" ] && set -- --bind "$extra" "$extra" "$@"
            done
            set +f
            IFS=$old_ifs
            for directory in $hosts; do set -- --bind "$directory" "$directory" "$@"; done
            if [ "$logical" != "$physical" ] && [ -d "$logical" ]; then
                case "$hosts " in
                *" $(first_part "$logical") "*) ;;
                *) set -- --bind "$physical" "$logical" "$@" ;;
                esac
            fi
            for file in /etc/resolv.conf /etc/hosts /etc/passwd /etc/group; do
                [ -r "$file" ] && [ -e "$root$file" ] && set -- --ro-bind "$file" "$file" "$@"
            done
        fi

        # The image's own directories.
        for entry in "$root"/* "$root"/.singularity.d; do
            base=/${entry##*/}
            case " /dev /proc /sys$hosts " in *" $base "*) continue ;; esac
            if [ -L "$entry" ]; then
                set -- --symlink "$(readlink "$entry")" "$base" "$@"
            elif [ -e "$entry" ]; then
                set -- --ro-bind "$entry" "$base" "$@"
            fi
        done
        if [ -n "${SCIFERRY_CONTAIN:-}" ]; then
            # No process of the host can be seen, so none of its secrets; bwrap itself can, hence its empty environment.
            exec env -i PATH="$PATH" SCIFERRY_ATTEMPT="${SCIFERRY_ATTEMPT:-}" SCIFERRY_WORKER="${SCIFERRY_WORKER:-}" \
                SCIFERRY_TEST="${SCIFERRY_TEST:-}" bwrap --unshare-pid --unshare-ipc --unshare-uts --unshare-cgroup-try --cap-drop ALL \
                --new-session --die-with-parent --dev /dev --proc /proc "$@"
        fi
        exec bwrap --dev-bind /dev /dev --proc /proc --ro-bind /sys /sys "$@"
        """# + "\n"
}
