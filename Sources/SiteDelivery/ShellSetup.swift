import FarmModel
import SystemIO

/// Files that users' shells read to see a site's modules: `. SITE/init/sh`, `source SITE/init/csh`, `source SITE/init/fish`.
///
/// They find the site from their own place where the shell tells it; else `SCIFERRY_SITE` does. Lmod is told where the spider cache is,
/// and not to list every command of every tool in `module avail`; Environment Modules where defaults and hidden versions stand.
enum ShellSetup {
    static func files(_ naming: SiteAppearance.Naming) -> [String: String] {
        let below = naming == .easybuild ? "modules/all" : "modules"
        return ["sh": sh(below), "csh": csh(below), "fish": fish(below)]
    }

    private static func sh(_ below: String) -> String {
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
        module use "$_sciferry_site/\(below)"
        unset _sciferry_site

        """
    }

    private static func csh(_ below: String) -> String {
        """
        # Written by sciferry. csh does not tell a file its own place: set SCIFERRY_SITE before.
        if ($?LMOD_CMD) then
            if (! $?LMOD_RC) then
                if (-r "$SCIFERRY_SITE/cache/lmodrc.lua") setenv LMOD_RC "$SCIFERRY_SITE/cache/lmodrc.lua"
            endif
            if (! $?LMOD_AVAIL_EXTENSIONS) setenv LMOD_AVAIL_EXTENSIONS no
        else
            setenv MODULERCFILE "$SCIFERRY_SITE/current/modulerc"
        endif
        module use "$SCIFERRY_SITE/\(below)"

        """
    }

    private static func fish(_ below: String) -> String {
        """
        # Written by sciferry.
        set -gx SCIFERRY_SITE (realpath (dirname (status filename))/..)
        if set -q LMOD_CMD
            if not set -q LMOD_RC; and test -r "$SCIFERRY_SITE/cache/lmodrc.lua"
                set -gx LMOD_RC "$SCIFERRY_SITE/cache/lmodrc.lua"
            end
            set -q LMOD_AVAIL_EXTENSIONS; or set -gx LMOD_AVAIL_EXTENSIONS no
        else
            set -gx MODULERCFILE "$SCIFERRY_SITE/current/modulerc"
        end
        module use "$SCIFERRY_SITE/\(below)"

        """
    }
}
