extension CommandName {
    /// Programs that every machine has, or that run other programs, by name: what lies in an image's directories under these names must not
    /// take the place of the user's own. Who means one of them names it among a recipe's commands.
    package static func isCommon(_ name: String) -> Bool { common.contains(Substring(name)) || isInterpreter(name) }

    /// `python3.11`, `perl5.36.0`, `ruby3.1` …
    private static func isInterpreter(_ name: String) -> Bool {
        let stem = name.prefix { $0.isLetter }
        let rest = name[stem.endIndex...]
        return interpreters.contains(stem) && rest.allSatisfy { $0.isNumber || $0 == "." }
    }

    private static let interpreters: Set<Substring> = [
        "python", "pip", "perl", "ruby", "lua", "tclsh", "wish", "php", "node", "java", "gcc", "cc",
    ]

    /// Of POSIX's utilities, GNU's coreutils, util-linux and what else a shell script calls.
    private static let common = Set(
        """
        [ addr2line ar arch as at awk b2sum base32 base64 basename basenc bash bashbug bg bunzip2 busybox bzcat bzip2 c++ c89 c99 c_rehash cal \
        captoinfo cat chcon chgrp chmod chown chroot cksum clear cmp column comm conda cp cpp csh csplit curl cut dash date dd deactivate \
        df diff dir dircolors dirname dpkg du echo ed egrep elfedit env ex expand expr factor false fc fgrep file find flex flock fmt fold \
        free fuser g++ gawk gcore gdb getconf getent getopt gfortran git gpg grep groups gunzip gzexe gzip head hexdump host hostid \
        hostname iconv id import infocmp infotocap install ionice ipcrm ipcs jobs join kill killall ld ldd less lessecho link ln locale \
        localedef locate logger login logname ls lsof lspci lzcat lzma m4 mail make man mawk md5sum mkdir mkfifo mknod mktemp more mount \
        mountpoint mv nawk ncursesw6-config newgrp nice nl nm nohup nproc npm npx nsenter numfmt objcopy objdump od openssl passwd paste \
        patch pathchk pax pgrep pidof pinky pinfo pinky pkg-config pkill pmap pr printenv printf ps ptx pwd pydoc pydoc3 ranlib rcp \
        readelf readlink realpath rename renice reset rev rm rmdir rpm rsync runcon script sed seq setsid sh sha1sum sha224sum sha256sum \
        sha384sum sha512sum shred shuf size sleep sort split sqlite3 ssh ssh-keygen stat stdbuf strings strip stty su sudo sum sync tabs \
        tac tail tar taskset tcsh tee test tic timeout toe top touch tput tr true truncate tset tsort tty umask umount unalias uname \
        uncompress unexpand uniq unlink unlzma unshare unxz unzip unzstd uptime users uuidgen vdir vi view vim vmstat watch wc wget \
        whereis which who whoami xargs xz xzcat yes zcat zcmp zdiff zip zsh zstd zstdcat
        """.split(whereSeparator: \.isWhitespace))
}
