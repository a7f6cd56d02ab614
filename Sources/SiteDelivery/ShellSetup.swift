import FarmModel
import SystemIO

/// Files that users' shells read to see a site's modules: `. SITE/init/sh`, `source SITE/init/csh`, `source SITE/init/fish`.
///
/// They find the site from their own place where the shell tells it; else `SCIFERRY_SITE` does. Lmod is told where the spider cache is,
/// and not to list every command of every tool in `module avail`; Environment Modules where defaults and hidden versions stand.
enum ShellSetup {
    static let files = ["sh": sh, "csh": csh, "fish": fish]

    /// A file in a generation whose modules begin in `modules/all`.
    static let belowAll = "modules-all"

    private static let sh =
        """
        # Written by sciferry. Read by bash, zsh and other shells of the POSIX kind; these others need SCIFERRY_SITE.
        if [ -n "${BASH_VERSION:-}" ]; then _sciferry_site=$(cd -P -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd -P)
        elif [ -n "${ZSH_VERSION:-}" ]; then eval '_sciferry_site=${${(%):-%x}:A:h:h}'
        else _sciferry_site=${SCIFERRY_SITE:?names the directory of the site}; fi
        export SCIFERRY_SITE="$_sciferry_site"
        if [ -n "${LMOD_CMD:-}" ]; then
            if [ -z "${LMOD_RC:-}" ] && [ -r "$_sciferry_site/cache/lmodrc.lua" ]; then export LMOD_RC="$_sciferry_site/cache/lmodrc.lua"; fi
            export LMOD_AVAIL_EXTENSIONS="${LMOD_AVAIL_EXTENSIONS:-no}"
        else
            export MODULERCFILE="${MODULERCFILE:+$MODULERCFILE:}$_sciferry_site/current/modulerc"
        fi
        if [ -e "$_sciferry_site/current/\(belowAll)" ]; then module use "$_sciferry_site/modules/all"; else module use "$_sciferry_site/modules"; fi
        unset _sciferry_site

        """

    private static let csh =
        """
        # Written by sciferry. csh does not tell a file its own place: set SCIFERRY_SITE before.
        if ($?LMOD_CMD) then
            if (! $?LMOD_RC) then
                if (-r "$SCIFERRY_SITE/cache/lmodrc.lua") setenv LMOD_RC "$SCIFERRY_SITE/cache/lmodrc.lua"
            endif
            if (! $?LMOD_AVAIL_EXTENSIONS) setenv LMOD_AVAIL_EXTENSIONS no
        else
            if ($?MODULERCFILE) then
                setenv MODULERCFILE "${MODULERCFILE}:$SCIFERRY_SITE/current/modulerc"
            else
                setenv MODULERCFILE "$SCIFERRY_SITE/current/modulerc"
            endif
        endif
        if (-e "$SCIFERRY_SITE/current/\(belowAll)") then
            module use "$SCIFERRY_SITE/modules/all"
        else
            module use "$SCIFERRY_SITE/modules"
        endif

        """

    private static let fish =
        """
        # Written by sciferry.
        set -gx SCIFERRY_SITE (realpath (dirname (status filename))/..)
        if set -q LMOD_CMD
            if not set -q LMOD_RC; and test -r "$SCIFERRY_SITE/cache/lmodrc.lua"
                set -gx LMOD_RC "$SCIFERRY_SITE/cache/lmodrc.lua"
            end
            set -q LMOD_AVAIL_EXTENSIONS; or set -gx LMOD_AVAIL_EXTENSIONS no
        else
            if set -q MODULERCFILE
                set -gx MODULERCFILE "$MODULERCFILE:$SCIFERRY_SITE/current/modulerc"
            else
                set -gx MODULERCFILE "$SCIFERRY_SITE/current/modulerc"
            end
        end
        if test -e "$SCIFERRY_SITE/current/\(belowAll)"
            module use "$SCIFERRY_SITE/modules/all"
        else
            module use "$SCIFERRY_SITE/modules"
        end

        """
}
