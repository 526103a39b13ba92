# Sourced by tools/build_caffe: how a tree of Caffe becomes bin/, lib/, libexec/ and share/. Part of the key of a build.

cmake_options=(
  -DCMAKE_BUILD_TYPE=Release -DBLAS=Open -DUSE_LMDB=ON -DUSE_LEVELDB=OFF
  -DBUILD_docs=OFF -DBUILD_matlab=OFF -Dpython_version=3
  # The result is moved: it is linked with the paths of its last place (see the edits), not those of this one.
  -DCMAKE_BUILD_WITH_INSTALL_RPATH=ON
  # CMake 4 refuses what was written for CMake 2 unless told so.
  -DCMAKE_POLICY_VERSION_MINIMUM=3.5
)
tools=(upgrade_net_proto_text upgrade_net_proto_binary upgrade_solver_proto_text)
tests=tpm_layer

progress() {  # progress TOTAL: one line that counts on a terminal, a line each tenth elsewhere
  local line percent last=-1 done=0
  while IFS= read -r line; do
    # A folder that is not written into for half a day is taken for that of a killed build.
    touch "$work"
    # make's own percentages start again with every target.
    [[ $line == *'Building CXX object'* || $line == *'Building NVCC (Device) object'* ]] || continue
    ((++done))
    percent=$((100 * done / $1))
    if [[ -t 1 ]]; then
      printf '\r[%3ds] compiling Caffe: %3d%%' "$SECONDS" "$percent"
    elif ((percent / 10 > last / 10 || last < 0)); then
      step "compiling Caffe: $percent%"
    fi
    last=$percent
  done
  [[ ! -t 1 ]] || echo
}

# The module that protoc writes goes with some versions of Python's protobuf only: that of protoc before 3.19 with none of
# today's. This one, of the schema itself, goes with every protobuf from 3.20 on.
write_caffe_pb2() {  # write_caffe_pb2 FOLDER-OF-caffe.proto FOLDER
  PATH=$system_path protoc --proto_path="$1" --include_imports --descriptor_set_out="$work/caffe.descriptors" \
    caffe.proto >>"$log" 2>&1 || fail "protoc cannot read Caffe's schema; see $log"
  "$python" - "$work/caffe.descriptors" "$2/caffe_pb2.py" <<'END'
import sys
from google.protobuf import descriptor_pb2
with open(sys.argv[1], "rb") as stream:
    schemas = descriptor_pb2.FileDescriptorSet.FromString(stream.read()).file
with open(sys.argv[2], "w", encoding="ascii") as stream:
    stream.write("""# The messages of caffe.proto.
from google.protobuf import descriptor_pool
from google.protobuf.internal import builder

""")
    # What it imports, if a Caffe of the user's own does, comes before it.
    for schema in schemas:
        if schema.name.startswith("google/protobuf/"):
            stream.write(f"import {schema.name[:-len('.proto')].replace('/', '.')}_pb2\n")
            continue
        text = schema.SerializeToString()
        stream.write(f"DESCRIPTOR = descriptor_pool.Default().AddSerializedFile(\n    {text!r}\n)\n")
    stream.write("""builder.BuildMessageAndEnumDescriptors(DESCRIPTOR, globals())
builder.BuildTopDescriptorsAndMessages(DESCRIPTOR, "caffe.proto.caffe_pb2", globals())
""")
END
}

build() {
  local tree=$work/tree prefix=$work/prefix jobs
  jobs=${CAFFE_BUILD_JOBS:-$(nproc)}
  log=$cache/build-$key.log
  : >"$log"
  fetch_source "$tree"
  "$python" "$root/tools/caffe_edits.py" "${edit_flags[@]}" "$tree" "$root/layers"

  step "configuring Caffe; log: $log"
  PATH=$system_path "$(type -P cmake)" -S "$tree" -B "$work/build" "${cmake_options[@]}" "-DBUILD_only_tests=$tests" \
    "-DPYTHON_EXECUTABLE=$python" >>"$log" 2>&1 || fail "cmake failed; see $log"
  # What it does not find it leaves out with a word: not the part of Caffe that was asked for.
  [[ " ${cmake_options[*]} " != *' -DUSE_CUDNN=ON '* ]] || grep -q 'Found cuDNN' "$log" || fail "cmake finds no cuDNN; see $log"
  local targets=(caffe.bin "${tools[@]}" pycaffe test.testbin) target objects
  objects=$(for target in gtest caffe caffeproto "${targets[@]}"; do
    find "$work/build" -path "*/$target.dir/build.make" -exec grep -oE '^[^ ]+\.o: ' {} +
  done | sort -u | wc -l)
  step "compiling Caffe: $objects files, $jobs at a time"
  if ! PATH=$system_path make -C "$work/build" "-j$jobs" "${targets[@]}" 2>&1 | tee -a "$log" | progress "$objects"; then
    grep -nE -m 5 '(error|Error|Killed)[: ]' "$log" >&2 || true
    fail "compiling failed; see $log"
  fi

  # The layout of a Python environment, so that installing is copying.
  mkdir -p "$prefix"/{bin,lib,libexec,share/caffe} "$prefix/$site"
  cp "$work/build/tools/caffe" "${tools[@]/#/$work/build/tools/}" "$prefix/bin/"
  cp -L "$(compgen -G "$work/build/lib/libcaffe.so.*" | head -n 1)" "$prefix/lib/"
  cp "$work/build/test/test.testbin" "$prefix/libexec/caffe-test"
  rm -f "$tree/python/caffe/_caffe.so"
  cp -r "$tree/python/caffe" "$prefix/$site/"
  rm -rf "$prefix/$site/caffe/test"
  find "$prefix/$site" -name '*.cpp' -delete
  cp -L "$work/build/lib/_caffe.so" "$prefix/$site/caffe/"
  write_caffe_pb2 "$tree/src/caffe/proto" "$prefix/$site/caffe/proto"
  # What tests and readers use of the source: schema, model zoo, examples, scripts.
  (cd "$tree" && find src/caffe/proto/caffe.proto models examples scripts tools/extra -type f \
    \( -name '*.proto' -o -name '*.prototxt' -o -name '*.py' -o -name '*.sh' \) -print0 |
    tar --null -T - -cf - | tar -C "$prefix/share/caffe" -xf -)
  cp "$tree/LICENSE" "$prefix/share/caffe/" 2>/dev/null || true
  if [[ $tests == *,* ]]; then
    (cd "$tree" && tar -cf - src/caffe/test/test_data examples/images) | tar -C "$prefix/share/caffe" -xf -
  fi
  # What tools/check_cuda compiles the TPM layer's CUDA half with.
  cp -r "$tree/include" "$prefix/share/caffe/"
  mkdir -p "$prefix/share/caffe/include/gtest"
  cp "$tree/src/gtest/gtest.h" "$prefix/share/caffe/include/gtest/"
  # Complete, or not there.
  mv "$prefix" "$built"
}

