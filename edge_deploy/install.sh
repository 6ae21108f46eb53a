#!/bin/sh
# Install, upgrade, roll back or remove PlantBridge on a machine with systemd. Needs no internet: everything comes
# from the folder of wheels that `make wheels` collects (this script lies in it). Run it as often as you like.
#
#     sudo sh install.sh                 install, or upgrade to the version in this folder
#     sudo sh install.sh --rollback      go back to the version before
#     sudo sh install.sh --status        what is installed
#     sudo sh install.sh --uninstall     remove; configuration and data stay (--purge removes them too)
#
#     --wheels DIR     the folder, where it is not the script's own
#     --with-cloud     also what `plantbridge ingest` and its stores need
#     --python FILE    a Python of the folder's version, where python3.X is not on the PATH
#     --force          go on though the site file does not pass the new version's check
#     --root DIR       put everything below DIR and leave users and services alone (to try it without root)
#
# Each version lives in a directory of its own; `current` is a link, switched last and in one step, so an interrupted
# run leaves the old version running. The site file is checked with the new version before the switch; if the service
# does not come up after it, the switch is undone.
#
#     /opt/plantbridge/VERSION, current, previous      programs
#     /etc/plantbridge/site.yaml, cloud.yaml, environment   yours; never overwritten
#     /var/lib/plantbridge                             journal, certificates, dead letters
set -eu

wheels=$(cd "$(dirname "$0")" && pwd)
action=install root="" python="" with=edge force=no purge=no changed=no
keep=3 # versions that stay on the disk

say() { echo "plantbridge: $*"; }
fail() {
    echo "plantbridge: $*" >&2
    exit 1
}

while [ $# -gt 0 ]; do
    case $1 in
        --wheels) wheels=$(cd "${2:?--wheels needs a folder}" && pwd) && shift ;;
        --root) root=${2:?--root needs a folder} && shift ;;
        --python) python=${2:?--python needs a file} && shift ;;
        --with-cloud) with=cloud ;;
        --force) force=yes ;;
        --purge) purge=yes ;;
        --rollback | --uninstall | --status) action=${1#--} ;;
        -h | --help) sed -n '2,/^set -eu/{/^set -eu/d;s/^# \{0,1\}//;p}' "$0" && exit 0 ;;
        *) fail "unknown option $1; see sh install.sh --help" ;;
    esac
    shift
done
if [ -n "$root" ]; then
    mkdir -p "$root"
    root=$(cd "$root" && pwd)
elif [ "$(id -u)" != 0 ]; then
    fail "needs root: sudo sh $0 (or --root DIR to try it)"
fi

prefix=$root/opt/plantbridge
etc=$root/etc/plantbridge
state=$root/var/lib/plantbridge
units=$root/etc/systemd/system
command=$root/usr/local/bin/plantbridge
services="plantbridge.service plantbridge-ingest.service"

systemd() { [ -z "$root" ] && [ -d /run/systemd/system ]; }

version_of() { # of a link in $prefix; empty where there is none
    readlink "$prefix/$1" 2>/dev/null || true
}

point() { # NAME VERSION: switch a link in one step
    ln -sfn "$2" "$prefix/.$1.new"
    mv -T "$prefix/.$1.new" "$prefix/$1"
}

restart() { # restart the services that run; fails where one does not come up
    systemd || return 0
    systemctl daemon-reload
    for service in $services; do
        if [ "$(systemctl show --property ActiveState --value "$service")" != inactive ]; then # or waiting to restart
            say "restarting $service"
            systemctl restart "$service" || return 1
        fi
    done
}

find_python() {
    read -r _ machine minor <"$wheels/TARGET" || fail "$wheels is not a folder made by make wheels (no TARGET)"
    [ "$(uname -m)" = "$machine" ] || fail "this folder is for $machine, this machine is $(uname -m)"
    for candidate in $python "python$minor" python3; do
        if [ "$("$candidate" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null)" = "$minor" ]; then
            python=$candidate
            return
        fi
    done
    fail "this folder is for Python $minor and none is here ($(python3 --version 2>&1)); collect one for this machine: make wheels PYTHON_VERSION=3.x"
}

install_user() {
    [ -z "$root" ] || return 0
    if ! getent passwd plantbridge >/dev/null; then
        useradd --system --user-group --home-dir "$state" --no-create-home --shell /usr/sbin/nologin plantbridge
        say "made the user plantbridge"
    fi
    # Serial lines belong to this group on Debian, Ubuntu and Raspberry Pi OS.
    ! getent group dialout >/dev/null || usermod --append --groups dialout plantbridge
}

install_version() { # sets $version; makes $prefix/$version unless it is there, complete and the same
    (cd "$wheels" && sha256sum --check --quiet --strict SHA256SUMS) || fail "the folder is damaged: copy it again"
    wheel=$(echo "$wheels"/plantbridge-*-py3-none-any.whl)
    [ -f "$wheel" ] || fail "expected one plantbridge wheel in $wheels"
    version=$(basename "$wheel" | cut -d- -f2)
    content=$(sha256sum <"$wheels/requirements-$with.txt" | cut -c1-8) # it names every wheel's hash
    # Another build under the same version number gets a directory of its own.
    if [ -e "$prefix/$version/.complete" ] && [ "$(cat "$prefix/$version/.complete")" != "$content" ]; then
        version=$version-$content
    fi
    if [ -e "$prefix/$version/.complete" ]; then
        say "$version is there already"
        return
    fi
    say "installing $version with $("$python" --version 2>&1)"
    rm -rf "${prefix:?}/$version"
    mkdir -p "$prefix"
    # pip runs from its own wheel, so that a Python without ensurepip will do.
    "$python" -m venv --without-pip "$prefix/$version"
    for pip in "$wheels"/pip-*.whl; do :; done
    PIP_ROOT_USER_ACTION=ignore "$prefix/$version/bin/python" -I "$pip/pip" \
        --isolated --quiet --disable-pip-version-check --no-input install --no-index --no-cache-dir --no-deps \
        --require-hashes --only-binary :all: --find-links "$wheels" -r "$wheels/requirements-$with.txt"
    "$prefix/$version/bin/plantbridge" version >/dev/null || fail "the new version does not start; nothing was changed"
    echo "$content" >"$prefix/$version/.complete"
}

install_files() {
    install -d -m 750 "$etc" "$state"
    for name in site cloud; do
        [ -e "$etc/$name.yaml" ] || install -m 640 "$wheels/$name.yaml" "$etc/$name.yaml"
    done
    if [ ! -e "$etc/environment" ]; then
        echo "# NAME=value lines; the site file reads them as \${env:NAME}." >"$etc/environment"
        chmod 600 "$etc/environment"
    fi
    install -d "$units" "$(dirname "$command")"
    for service in $services; do
        if ! cmp -s "$wheels/$service" "$units/$service"; then
            install -m 644 "$wheels/$service" "$units/$service"
            changed=yes
        fi
    done
    ln -sfn "$prefix/current/bin/plantbridge" "$command"
    if [ -z "$root" ]; then
        chown root:plantbridge "$etc" "$etc/site.yaml" "$etc/cloud.yaml"
        chown plantbridge:plantbridge "$state"
    fi
}

install_schema() { # for editors: the files' first line names it
    for name in site cloud; do
        "$prefix/$version/bin/plantbridge" schema "$name" >"$etc/.schema.new" || fail "plantbridge schema $name failed"
        chmod 644 "$etc/.schema.new"
        mv "$etc/.schema.new" "$etc/$name.schema.json"
    done
}

check_site() { # with the version to come, and the secrets the service will have
    if [ -z "$(version_of current)" ] && cmp -s "$wheels/site.yaml" "$etc/site.yaml"; then
        return # the sample, not edited yet
    fi
    # shellcheck disable=SC2016  # the inner shell expands
    if grep -E '^[A-Za-z_][A-Za-z0-9_]*=' "$etc/environment" | xargs -d '\n' \
        sh -c 'command=$1 site=$2; shift 2; exec env "$@" "$command" check "$site"' \
        check "$prefix/$version/bin/plantbridge" "$etc/site.yaml"; then
        return
    fi
    [ "$force" = yes ] || fail "$etc/site.yaml does not pass the check of $version; still on $(version_of current)"
}

prune() { # the oldest versions, but never current and previous
    find "$prefix" -mindepth 1 -maxdepth 1 -type d -printf '%T@ %f\n' | sort -rn | cut -d' ' -f2 |
        tail -n "+$((keep + 1))" | while read -r old; do
        if [ "$old" != "$(version_of current)" ] && [ "$old" != "$(version_of previous)" ]; then
            rm -rf "${prefix:?}/$old"
            say "removed $old"
        fi
    done
}

do_install() {
    find_python
    install_user
    install_version
    install_files
    check_site
    install_schema
    before=$(version_of current)
    if [ "$before" != "$version" ]; then
        point current "$version"
        changed=yes
    fi
    if [ "$changed" = yes ] && ! restart; then
        if [ -n "$before" ] && [ "$before" != "$version" ]; then
            point current "$before"
            restart || true
            fail "$version did not come up (journalctl -u plantbridge); back on $before"
        fi
        fail "$version did not come up: journalctl -u plantbridge"
    fi
    [ -z "$before" ] || [ "$before" = "$version" ] || point previous "$before"
    prune
    if [ "$before" = "$version" ]; then
        say "$version was current already"
    else
        say "$version is current${before:+ (before: $before)}"
    fi
    if [ -z "$before" ]; then
        say "next: edit /etc/plantbridge/site.yaml, then: sudo plantbridge check /etc/plantbridge/site.yaml"
        say "      and: sudo systemctl enable --now plantbridge"
    fi
}

do_rollback() {
    before=$(version_of current) version=$(version_of previous)
    [ -n "$version" ] || fail "there is no version before ${before:-this one}"
    [ -e "$prefix/$version/.complete" ] || fail "$prefix/$version is not complete"
    point current "$version"
    point previous "$before"
    restart || fail "$version did not come up: journalctl -u plantbridge"
    say "$version is current (before: $before)"
}

do_uninstall() {
    if systemd; then
        for service in $services; do
            systemctl disable --now --quiet "$service" 2>/dev/null || true
        done
    fi
    for service in $services; do rm -f "$units/$service"; done
    ! systemd || systemctl daemon-reload
    rm -rf "$prefix" "$command"
    if [ "$purge" = yes ]; then
        rm -rf "$etc" "$state"
        [ -n "$root" ] || ! getent passwd plantbridge >/dev/null || userdel plantbridge
        say "removed, with configuration and data"
    else
        say "removed; $etc and $state are kept"
    fi
}

do_status() {
    say "current $(version_of current || true), previous $(version_of previous || true)"
    ! systemd || systemctl --no-pager --lines 0 status plantbridge.service || true
}

"do_$action"
