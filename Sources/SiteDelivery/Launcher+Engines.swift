extension Launcher {
    /// Contained calls for tests, and calls through Docker and Podman.
    static let engines =
        #"""
        # --- For tests of strangers' images: the working directory and nothing else of the host.
        if [ -n "${SCIFERRY_CONTAIN:-}" ]; then
            [ "$_runtime" = bwrap ] || fail "only apptainer, singularity and bwrap can contain" 64
            (protect_mounts && mount_image) || exit
            add_entries '' '/dev /proc /sys /tmp'
            if [ "${SCIFERRY_NETWORK:-}" = none ]; then add --unshare-net; else add_file /etc/resolv.conf resolv.conf; fi
            if [ -n "${SCIFERRY_TEMPORARY:-}" ]; then add --bind "$SCIFERRY_TEMPORARY" /tmp; else add --tmpfs /tmp; fi
            add --bind "$_physical" "$_physical"
            [ "$SCIFERRY_CONTAIN" != strict ] || add --remount-ro /
            add --clearenv --setenv HOME "$_physical" --setenv PWD "$_physical" --setenv LANG C.UTF-8 \
                --setenv SCIFERRY_TEST "${SCIFERRY_TEST:-}" --setenv SCIFERRY_ATTEMPT "${SCIFERRY_ATTEMPT:-}" \
                --setenv SCIFERRY_WORKER "${SCIFERRY_WORKER:-}"
            _entry='for _script in /.singularity.d/env/*.sh; do [ ! -r "$_script" ] || . "$_script"; done
        '$_entry
            # No process of the host can be seen, so none of its secrets; bwrap itself can, hence its empty environment.
            eval "exec env -i PATH=\"\$PATH\" SCIFERRY_ATTEMPT=\"\${SCIFERRY_ATTEMPT:-}\" SCIFERRY_WORKER=\"\${SCIFERRY_WORKER:-}\" \
                SCIFERRY_TEST=\"\${SCIFERRY_TEST:-}\" bwrap --unshare-pid --unshare-ipc --unshare-uts --unshare-cgroup-try --cap-drop ALL \
                --new-session --die-with-parent --dev /dev --proc /proc $_words -- /bin/sh -c \"\$_entry\" sciferry \"\$_physical\" \
                \"\$_command\" \"\$@\""
        fi

        # --- Inside, a call takes the image's variables, but for those that the user's word counts more for.
        _names='_kept=
        for _name in $SCIFERRY_OVERRIDABLE; do
            case $_name in [0-9]* | *[!A-Za-z0-9_]*) continue ;; esac
            eval "[ -z \"\${$_name+set}\" ] || { _kept=\"\$_kept $_name\" _kept_$_name=\$$_name; }"
        done
        eval "$SCIFERRY_ENVIRONMENT"
        for _name in $_kept; do eval "export $_name=\"\$_kept_$_name\""; done
        unset SCIFERRY_OVERRIDABLE SCIFERRY_ENVIRONMENT
        '
        # The image's variables as a shell would set them; nothing of the host's may take part.
        _clean='PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
        export PATH
        for _script in /.singularity.d/env/*.sh; do [ ! -r "$_script" ] || . "$_script"; done
        unset HOME USER PWD OLDPWD SHLVL HOSTNAME TERM _
        export -p'
        SCIFERRY_OVERRIDABLE=$_overridable
        export SCIFERRY_OVERRIDABLE

        # What the host's users and groups are called, whoever knows them, before the image's own.
        write_names() {
            # shellcheck disable=SC2046 # Numbers, one in a word.
            {
                { getent passwd "$(id -u)"; cat "$_root/etc/passwd"; } >"$_state/passwd"
                { getent group $(id -G); cat "$_root/etc/group"; } >"$_state/group"
            } 2>/dev/null
        }

        # --- Docker and Podman: the image is given to the engine once.
        add_volume() {
            replaced "$1" '"' '""'
            add --mount "type=bind,\"source=$_replaced\",\"target=${2:-$_replaced}\""
        }
        case $_runtime in
        docker | podman)
            if [ -L "$_mounts" ] || [ ! -O "$_mounts" ] || [ ! -e "$_state/group" ] || [ -z "$("$_runtime" image ls --quiet "sciferry:$_digest" 2>/dev/null)" ]; then
                (
                    protect_mounts
                    mount_image
                    mkdir -p "$_state" || fail "cannot make $_state"
                    write_names
                    if [ -z "$("$_runtime" image ls --quiet "sciferry:$_digest")" ]; then
                        tar -C "$_root" -cf - . | "$_runtime" import - "sciferry:$_digest" >/dev/null || fail "$_runtime does not take $_image"
                    fi
                ) || exit
            fi
            add run --rm --interactive --network host --pid host --ipc host --user "$(id -u):$(id -g)" --workdir /
            for _group in $(id -G); do add --group-add "$_group"; done
            if [ -t 0 ] && [ -t 1 ]; then add --tty; fi
            if [ "$_gpu" = auto ] && [ -e /dev/nvidiactl ]; then add --gpus all; fi
            [ "$_runtime" = docker ] || add --userns keep-id
            for _file in /etc/hosts /etc/resolv.conf /etc/localtime; do [ ! -e "$_file" ] || add_volume "$_file"; done
            add_volume "$_state/passwd" /etc/passwd
            add_volume "$_state/group" /etc/group
            for _directory in $_hosts /var/tmp; do add_volume "$_directory"; done
            each "$_extras" add_volume
            for _name in $(export -p | sed -n 's/^export \([A-Za-z_][A-Za-z0-9_]*\)=.*/\1/p'); do
                case $_name in PATH | PWD | OLDPWD | DOCKER_* | CONTAINER_*) ;; *) add --env "$_name" ;; esac
            done
            # shellcheck disable=SC3045 # Where a shell cannot tell the limit, the engine's stays.
            _names='SCIFERRY_ENVIRONMENT=$(env -i /bin/sh -c "$SCIFERRY_CLEAN")
        unset SCIFERRY_CLEAN
        umask '$(umask)'; ulimit -n '$(ulimit -n)' 2>/dev/null
        '$_names$_entry
            add --env "SCIFERRY_CLEAN=$_clean" --entrypoint /bin/sh "sciferry:$_digest"
            eval "exec \"\$_runtime\" $_words -c \"\$_names\" sciferry \"\$_logical\" \"\$_command\" \"\$@\""
            ;;
        esac
        """#
}
