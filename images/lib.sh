# shellcheck shell=bash
# Shared by build-all, build and mkimage.

images_dir=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
repo_dir=$(dirname "$images_dir")
umask 022
: "${NIXVM_DIR:=$repo_dir/.nixvm}"
# shellcheck disable=SC2034  # for those who source this
guest_dir=$repo_dir/nix/guest

step() { printf 'images: %s\n' "$*"; }
die() {
  printf 'images: error: %s\n' "$*" >&2
  exit 1
}

# A list file without comments and blank lines.
entries() { sed -e 's/#.*//' -e 's/[[:space:]]*$//' -e '/^$/d' "$1"; }

# dpkg's list, a name and a version a line, as `nixvm image diff` reads it. Neither can hold a character that JSON would escape.
package_list() {
  echo '{ "schema": 1, "kind": "dpkg", "packages": ['
  LC_ALL=C sort "$1" | sed -e 's/^\([^ ]*\) \(.*\)$/  ["\1", "\2"]/' -e '$!s/$/,/'
  echo '] }'
}

# The Debian release that is built: the machine's own, as only its archive is known to be reachable and trusted here.
suite() {
  # shellcheck disable=SC1091
  (. /etc/os-release && printf '%s\n' "${NIXVM_IMAGE_SUITE:-${VERSION_CODENAME:?no VERSION_CODENAME in /etc/os-release}}")
}

# Everything that can change the bytes of an image: the files named, by name, content and whether they can be run (all else of a
# mode depends on the umask of the checkout), and the release. Package versions are
# not part of it: they are known only after a look into the archive, and a cached image stays valid without one.
digest_of() {
  {
    suite
    cd "$repo_dir" || exit 1
    find "$@" ! -type d ! -name '*.md' ! -name '.*' -printf '%M %p %l\n' | sed 's/^...\(.\)....../\1/' | LC_ALL=C sort
    find "$@" -type f ! -name '*.md' ! -name '.*' -print0 | LC_ALL=C sort -z | xargs -0 sha256sum
  } | sha256sum | cut -d' ' -f1
}
input_digest() { digest_of images nix/guest; }
tree_digest() { digest_of images/rootfs images/apt.sh images/hooks images/packages images/modules images/masked-units images/epoch; }
