# Sourced by tools/build_caffe: Caffe's source, its own or the one that is downloaded.

source_version=1.0.0+git20180821.99bd997-8
source_suite=bullseye
source_sha256=e0eb3f06794f7402c77b7dec8e8480273ee1a1bb192e9122b621a69d4147ad0c

other_source="give CAFFE_SOURCE=DIR-or-tarball, or an empty CAFFE_SOURCE= for BVLC's"

identify_source() {  # sets own, source_id and gone: what the source is, for the key, before it is fetched
  own=${CAFFE_SOURCE-} gone=no
  # The user's own Caffe is not replaced by BVLC's because a variable is no longer set.
  if [[ -z ${CAFFE_SOURCE+given} && ${#last_source[@]} == 2 ]]; then
    own=${last_source[1]}
    # A folder that is empty may be the place of a disk that is not mounted.
    if [[ ! -e $own || -d $own && -z $(ls -A "$own") ]]; then
      # What was built from it can still be told, installed and found in the cache.
      source_id=${last_source[0]} gone=yes
      step "the source of this Caffe, $own, is gone; for another, $other_source"
      return
    fi
    step "the source is $own, as the last time; for another, $other_source"
  fi
  if [[ -n $own ]]; then
    [[ $own == /* ]] || own=$start_dir/$own
    if [[ -d $own ]]; then
      [[ -f $own/src/caffe/proto/caffe.proto && -f $own/CMakeLists.txt ]] ||
        fail "CAFFE_SOURCE=$own is no Caffe tree: it has no CMakeLists.txt or no src/caffe/proto/caffe.proto"
      # A tree's build results and history are neither copied nor part of the key.
      source_id=$(cd "$own" && find . \( -path ./.git -o -path './build*' -o -path './.build*' -o -name '__pycache__' \) -prune -o \
        -type f ! -name '*.pyc' -print0 | sort -z | xargs -0 sha256sum | sha256sum | cut -d' ' -f1)
    elif [[ -f $own ]]; then
      tar -tf "$own" >/dev/null 2>&1 || fail "CAFFE_SOURCE=$own is neither a folder nor a tar archive"
      source_id=$(sha256sum <"$own" | cut -d' ' -f1)
    else
      fail "CAFFE_SOURCE=$own does not exist: give the folder or tarball of a Caffe tree, or leave it unset"
    fi
  else
    source_id=$source_sha256
  fi
  [[ ${#last_source[@]} != 2 || $own == "${last_source[1]}" ]] ||
    step "the source is ${own:-that of BVLC}; it was ${last_source[1]} the last time"
}

# ---- The download, through a private apt that knows one more suite; the machine's own is only read.
download() {  # download FILE
  local apt_dir=$work/apt uri uris keyring keyrings signed_by fetched
  command -v apt-get >/dev/null || fail "no apt-get to download Caffe with: give a tree by CAFFE_SOURCE=DIR-or-tarball"
  mkdir -p "$apt_dir"/{lists,cache/archives}/partial "$apt_dir/source"
  local options=(
    -o "Dir::Etc::sourcelist=$apt_dir/sources.list" -o Dir::Etc::sourceparts=/dev/null
    -o "Dir::State::lists=$apt_dir/lists" -o "Dir::Cache=$apt_dir/cache"
    -o "APT::Sandbox::User=$(id -un)" -o Acquire::Check-Valid-Until=false -o Acquire::Retries=1
    # Behind a firewall that drops what it gets each try would take its whole time, and no word be said for long.
    -o Acquire::http::Timeout=20 -o Acquire::https::Timeout=20
  )
  # The keyrings this machine trusts and the distribution's whole one (it covers older suites); then apt's default.
  keyrings=$({
    (grep -hoiE '(^|[[ ])signed-by[=:] *[^] ]+' /etc/apt/sources.list /etc/apt/sources.list.d/*.{list,sources} || true) \
      2>/dev/null | sed -E 's/^[^=:]*[=:] *//'
    echo /usr/share/keyrings/debian-archive-keyring.gpg
  } | awk '!seen[$0]++')
  while IFS= read -r keyring; do
    [[ ! -f $keyring ]] || signed_by=${signed_by:+$signed_by,}$keyring
  done <<<"$keyrings"
  # One of them that apt cannot read may spoil them all.
  keyrings=(${signed_by:+"$signed_by"} /usr/share/keyrings/debian-archive-keyring.gpg '')
  # Every place it gets packages from, asked without downloading: its lists may be empty. Security mirrors come last. Where
  # apt-get fails it may have named some all the same; that there are none is told below.
  uris=$({ apt-get update --print-uris 2>>"$log" || true; } | sed -nE "s#^'([^']+)/dists/.*#\1#p" |
    awk '!seen[$0]++ { print ($0 ~ /security/), $0 }' | sort -s -n -k1,1 | cut -d' ' -f2-)
  while IFS= read -r uri; do
    [[ -n $uri ]] || continue
    for keyring in "${keyrings[@]}"; do
      [[ -z $keyring || -f ${keyring%%,*} ]] || continue
      echo "deb-src ${keyring:+[signed-by=$keyring] }$uri $source_suite main" >"$apt_dir/sources.list"
      echo "== $(<"$apt_dir/sources.list")" >>"$log"
      apt-get "${options[@]}" update >>"$log" 2>&1 || continue
      (cd "$apt_dir/source" && apt-get "${options[@]}" source --download-only "caffe=$source_version") >>"$log" 2>&1 || continue
      fetched=$(compgen -G "$apt_dir/source/*.orig.tar.gz") || continue
      echo "$source_sha256  $fetched" | sha256sum --check --status ||
        fail "the downloaded source of Caffe has the wrong checksum; see $log"
      mv "$fetched" "$1"
      return
    done
  done <<<"$uris"
  fail "no mirror this machine's apt knows has the source of Caffe ($source_version of $source_suite);" \
    "give CAFFE_SOURCE=DIR-or-tarball: a clone of BVLC/caffe, or caffe_${source_version%-*}.orig.tar.gz of Debian. Log: $log"
}

unpack() {  # unpack TARBALL DIR: the tree may lie one folder deep in the archive
  local found
  mkdir -p "$2.raw"
  tar -xf "$1" -C "$2.raw"
  found=$(find "$2.raw" -mindepth 4 -maxdepth 5 -path '*/src/caffe/proto/caffe.proto' -print -quit)
  [[ -n $found ]] || fail "$1 holds no Caffe tree: no src/caffe/proto/caffe.proto in it"
  mv "${found%/src/caffe/proto/caffe.proto}" "$2"
}

fetch_source() {  # fetch_source TREE
  if [[ -z $own ]]; then
    local tarball=$cache/caffe-99bd997.tar.gz
    if ! echo "$source_sha256  $tarball" | sha256sum --check --status 2>/dev/null; then
      step "downloading the source of Caffe"
      download "$tarball"
    fi
    unpack "$tarball" "$1"
  elif [[ -d $own ]]; then
    step "copying $own"
    mkdir "$1"
    tar -C "$own" --exclude=./.git --exclude='./build*' --exclude='./.build*' -cf - . | tar -C "$1" -xf -
  else
    step "unpacking $own"
    unpack "$own" "$1"
  fi
}
