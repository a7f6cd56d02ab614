extension Launcher {
    /// The name space that is kept, and entering it.
    static let namespace =
        #"""
        # --- Entering the name space that is there.
        # What keeps it: writes down the image's variables, says who it is, and goes when nobody has called for a while.
        _hold='/bin/sh -c "$2" >/.sciferry/environment.new || exit 1
        echo "$$"
        exec </dev/null >/dev/null 2>&1
        _last=
        while sleep "$1"; do
            read -r _used </.sciferry/used
            read -r _holder _rest </.sciferry/holder
            if [ "$_holder" = "$$" ]; then
                if [ "$_used" != "$_last" ]; then _last=$_used; continue; fi
                : >/.sciferry/holder
            fi
            # Who has just read who holds it is still on the way.
            sleep 5
            exit 0
        done'

        # Whether a process keeps the name space that this call needs; says that it is needed.
        held() {
            # Anybody can make a directory in /tmp, with the number of a process of theirs in it.
            [ -O "$_mounts" ] && [ ! -L "$_mounts" ] && [ -d "$_state" ] || return 1
            echo "$$" >"$_state/used" 2>/dev/null
            read -r _holder _kind _seen 2>/dev/null <"$_state/holder" || return 1
            [ " $_seen" = "$_hosts" ] && [ -e "/proc/$_holder/root/.sciferry/$_digest-$_version" ] || return 1
            # Where the mount's own process was killed, nothing of the image can be seen.
            [ -e "/proc/$_holder/root/bin/sh" ] || [ -L "/proc/$_holder/root/bin/sh" ] || return 1
            # A directory or file that was made anew since is another one.
            _same=yes
            if [ -n "$_extras" ]; then each "$_extras" is_same; fi
            [ "$_same" = yes ]
        }
        is_same() { [ "/proc/$_holder/root$1" -ef "$1" ] || _same=; }
        hold() {
            protect_mounts
            if held; then return 0; fi
            mount_image
            (umask 077 && mkdir -p "$_state") || fail "cannot make $_state"
            _user=$(id -u)
            _words=
            add --dev-bind /dev /dev --proc /proc --ro-bind /sys /sys
            add_entries '' "/dev /proc /sys /run /tmp$_hosts"
            add --tmpfs /run
            if [ -d "$_root/run" ]; then add_entries /run ''; fi
            for _directory in $_hosts; do add --bind "$_directory" "$_directory"; done
            # Before what stands in /etc and /var, which may be put together anew for it.
            each "$_extras" find_opened
            open_directories
            each "$_extras" add_extra
            for _file in resolv.conf hosts localtime; do
                if [ -r "/etc/$_file" ]; then add_file "/etc/$_file" "$_file"; fi
            done
            write_names
            for _file in passwd group; do add_file "$_state/$_file" "$_file"; done
            if [ -d /var/tmp ] && [ -d "$_root/var/tmp" ]; then add --bind /var/tmp /var/tmp; fi
            add_gpu
            add --bind "$_state" /.sciferry --chdir /
            printf '%s\n' 'SCIFERRY_ENVIRONMENT=". /.sciferry/environment"' "$_names$_entry" >"$_state/enter.new"
            mv "$_state/enter.new" "$_state/enter"
            : >"$_state/$_digest-$_version"
            echo "$$" >"$_state/used"
            _bwrap=$(command -v bwrap) || fail "bubblewrap is not installed" 127
            eval "_holder=\$({ setsid \"\$_closer\" -c \"\$_closing\" sciferry env -i \"\$_bwrap\" $_words -- \
                /bin/sh -c \"\$_hold\" sciferry \"\${SCIFERRY_IDLE:-600}\" \"\$_clean\" </dev/null 2>\"\$_state/problem\" & } | head -n 1)"
            [ -n "$_holder" ] || fail "the name space of $_command cannot be put together: $(tail -n 1 "$_state/problem")"
            _kind=user
            if [ "$(readlink "/proc/$_holder/ns/user")" = "$(readlink /proc/self/ns/user)" ]; then
                _kind=root
                [ "$_user" = 0 ] || fail "bubblewrap is installed with root's rights here, so its name space cannot be entered; install apptainer"
            fi
            # Calls that found what was there before may be reading it.
            mv "$_state/environment.new" "$_state/environment" || fail "cannot write below $_state"
            echo "$_holder $_kind$_hosts" >"$_state/holder.new" && mv "$_state/holder.new" "$_state/holder"
        }
        # The driver's own libraries must be those of this kernel, so they come from the host.
        add_gpu() {
            [ "$_gpu" = auto ] && [ -e /dev/nvidiactl ] || return 0
            if [ -d "$_root/.singularity.d/libs" ]; then
                add --tmpfs /.singularity.d/libs
            else
                add --tmpfs /.singularity.d
                add_entries /.singularity.d ''
            fi
            for _library in $(ldconfig -p 2>/dev/null |
                sed -n 's/^[[:space:]]*lib\(cuda\|nvidia\|nvcuvid\|nvoptix\|GLX_nvidia\|EGL_nvidia\)[^ ]* (libc6,\(x86-64\|AArch64\).*=> \([^ ]*\)$/\3/p'); do
                add --ro-bind "$_library" "/.singularity.d/libs/${_library##*/}"
            done
        }

        # In a shell of its own, so that what it opens takes nothing from the command.
        held || { (hold) || exit; held || fail "the name space of $_command is gone already"; }
        if [ "$_kind" = user ]; then
            exec nsenter --target "$_holder" --user --mount --preserve-credentials -- /bin/sh /.sciferry/enter "$_logical" "$_command" "$@"
        fi
        exec nsenter --target "$_holder" --mount -- /bin/sh /.sciferry/enter "$_logical" "$_command" "$@"
        """#
}
