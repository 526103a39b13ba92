# caffe-split with BVLC Caffe, CPU only. Each step is one of the project's own scripts.
#   docker build -t caffe-split .
#   docker run --rm caffe-split                          the help
#   docker run --rm caffe-split ./tools/demo             the demo
#   docker run --rm -v "$PWD:/work" -w /work caffe-split caffe-split make-derived baseline.prototxt --iter 50000
FROM debian:12-slim
WORKDIR /caffe-split
COPY . .
# The cache is kept for tools/demo and tools/test: 9 MB.
RUN ./tools/build_caffe && rm -rf /var/lib/apt/lists/* /root/.cache/pip
ENV PATH=/caffe-split/.venv/bin:$PATH
CMD ["caffe-split", "--help"]
