extension Launcher {
    /// An image mounted once for a user, and what a name space is put together from.
    static let mounts =
        #"""
        # --- A mounted image. It is mounted once for each user, and job, if there is one. Its name space is put together once and kept
        # by a process that sleeps in it; a call enters it and becomes the command, with the process number, the parent and the signals
        # of its caller.
        _job=${SLURM_JOB_ID:-${PBS_JOBID:-${LSB_JOBID:-${JOB_ID:-}}}}
        # What one step of a job has started ends with that step.
        _job=$_job${SLURM_STEP_ID:+.$SLURM_STEP_ID}
        _mounts=${SCIFERRY_MOUNTS:-}
        if [ -z "$_mounts" ]; then
            _mounts=/tmp
            case ${XDG_RUNTIME_DIR:-} in /*) if [ -w "$XDG_RUNTIME_DIR" ]; then _mounts=$XDG_RUNTIME_DIR; fi ;; esac
            _mounts=$_mounts/sciferry-mounts-${USER:-x}${_job:+-$_job}
            # Somebody else's: then a name that only this user can mean.
            if [ -e "$_mounts" ] && ! [ -O "$_mounts" ]; then _mounts=${_mounts%/*}/sciferry-mounts-$(id -u)${_job:+-$_job}; fi
        fi
        if [ -z "$_digest" ]; then
            _digest=$(cd -P -- "$_folder" && pwd -P) || fail "the image of $_command is gone: $_folder" 127
            _digest=${_digest##*/}
        fi
        _root=$_mounts/$_digest
        _state=$_root.d
        if [ -n "$_extras" ]; then _state=$_state.$(printf %s "$_extras" | cksum | tr ' ' -); fi

        # What goes on after the call must hold none of its files, which may be locks and pipes. Not every shell knows two-digit numbers.
        _closing='for _number in /proc/self/fd/*; do
            _number=${_number##*/}
            case $_number in
            0 | 1 | 2) ;;
            ?) eval "exec $_number>&-" ;;
            *) [ -z "${BASH_VERSION:-}" ] || eval "exec $_number>&-" ;;
            esac
        done
        exec "$@"'
        _closer=$(command -v bash 2>/dev/null) || _closer=/bin/sh

        protect_mounts() {
            (umask 077 && mkdir -p "$_mounts") || fail "cannot make $_mounts"
            # Whose directory it is comes first: anybody could have put a tree of their own there.
            if [ -L "$_mounts" ] || ! [ -O "$_mounts" ]; then fail "$_mounts belongs to somebody else"; fi
            chmod 700 "$_mounts" || fail "cannot protect $_mounts"
            exec 9>"$_mounts/.lock"
            if command -v flock >/dev/null 2>&1; then flock 9; fi
        }

        let_go() { fusermount3 -u -z "$1" || fusermount -u -z "$1" || umount -l "$1"; } >/dev/null 2>&1
        # What killed jobs left: a user may have so many mounts and no more.
        sweep_mounts() {
            [ -z "${SCIFERRY_MOUNTS:-}" ] || return 0
            for _dead in "${_mounts%/*}/sciferry-mounts-${USER:-x}"/* "${_mounts%/*}/sciferry-mounts-${USER:-x}"-*/*; do
                case $_dead in *'*' | *.d | *.d.*) continue ;; esac
                # Of one without a server nothing can be known, not even that it is there.
                if [ ! -e "$_dead" ] && let_go "$_dead"; then rmdir "$_dead"; fi
            done
        }

        mount_image() {
            if [ ! -e "$_root/bin/sh" ] && [ ! -L "$_root/bin/sh" ]; then
                # A mount whose server was killed must go before a new one can come.
                let_go "$_root"
                sweep_mounts
                mkdir -p "$_root" || fail "cannot make $_root"
                if [ -w /dev/fuse ] && command -v squashfuse_ll >/dev/null 2>&1; then
                    # It goes by itself when nothing of the image has been open for a while.
                    "$_closer" -c "$_closing" sciferry \
                        squashfuse_ll -o "offset=$_offset,timeout=$((${SCIFERRY_IDLE:-600} * 3 / 2))" "$_image" "$_root" >/dev/null 2>&1 ||
                        fail "cannot mount $_image through squashfuse"
                elif [ -w /dev/fuse ] && command -v squashfuse >/dev/null 2>&1; then
                    "$_closer" -c "$_closing" sciferry squashfuse -o "offset=$_offset,ro" "$_image" "$_root" >/dev/null 2>&1 ||
                        fail "cannot mount $_image through squashfuse"
                else
                    mount -t squashfs -o "ro,loop,offset=$_offset" "$_image" "$_root" || fail "cannot mount $_image"
                fi
                if [ ! -e "$_root/bin/sh" ] && [ ! -L "$_root/bin/sh" ]; then
                    fail "the image of $_command has no shell; run it with SCIFERRY_RUNTIME=apptainer"
                fi
            fi
        }

        # add_entry PLACE: a file, directory or link of the image, where it is there.
        add_entry() {
            if [ -L "$_root$1" ]; then add --symlink "$(readlink "$_root$1")" "$1"
            elif [ -e "$_root$1" ]; then add --ro-bind "$_root$1" "$1"; fi
        }
        # add_entries DIRECTORY EXCEPT: all of a directory of the image.
        add_entries() {
            for _entry_path in "$_root$1"/* "$_root$1"/.[!.]*; do
                _place=$1/${_entry_path##*/}
                case " $2 " in *" $_place "*) ;; *) add_entry "$_place" ;; esac
            done
        }
        # Directories in which something stands that the image does not have are put together anew, those above before those in them.
        _opened=
        find_opened() {
            _above=${1%/*}
            while [ -n "$_above" ] && [ ! -d "$_root$_above" ]; do _above=${_above%/*}; done
            if [ -n "$_above" ] && [ ! -e "$_root$1" ] && [ "$_above" != /run ]; then
                _opened="$_opened
        $_above"
            fi
        }
        open_directory() {
            add --tmpfs "$1"
            add_entries "$1" ''
        }
        open_directories() {
            if [ -n "$_opened" ]; then each "$(printf '%s\n' "$_opened" | LC_ALL=C sort -u)" open_directory; fi
        }
        add_extra() { add --bind "$1" "$1"; }
        # Puts a file in the place of the image's in /etc, which may be a link: within the image, whatever the host has under that name.
        add_file() {
            _place=/etc/$2
            if [ -L "$_root$_place" ]; then
                _place=$(readlink "$_root$_place")
                case $_place in /*) ;; ../*) _place=${_place#..} ;; *) _place=/etc/$_place ;; esac
            fi
            case $_place in
            */../*) return 0 ;;
            /run/*) ;;
            *) if [ -L "$_root$_place" ] || [ ! -f "$_root$_place" ]; then return 0; fi ;;
            esac
            add --ro-bind "$1" "$_place"
        }
        """#
}
