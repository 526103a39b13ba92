// caffe-nccl RANK SIZE FILE SOLVER: one of SIZE processes that train SOLVER
// together through NCCL, all on device 0. Rank 0 writes NCCL's name for the
// group into FILE, the others wait for it. caffe itself uses NCCL only with
// several devices, in threads.
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <iterator>
#include <string>

#include "caffe/parallel.hpp"
#include "caffe/sgd_solvers.hpp"
#include "caffe/solver_factory.hpp"
#include "caffe/util/io.hpp"
#include "caffe/util/upgrade_proto.hpp"

namespace {

std::string GroupName(const int rank, const std::string& file) {
  if (rank == 0) {
    const std::string name = caffe::NCCL<float>::new_uid();
    std::ofstream(file + ".new", std::ios::binary) << name;
    // Complete, or not there.
    CHECK_EQ(std::rename((file + ".new").c_str(), file.c_str()), 0) << file;
    return name;
  }
  for (int i = 0; i < 100; ++i) {
    std::ifstream stream(file, std::ios::binary);
    if (stream) {
      return std::string(std::istreambuf_iterator<char>(stream), {});
    }
    usleep(100000);
  }
  LOG(FATAL) << "rank 0 has not written " << file << " within 10 s";
  return "";
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 5) {
    std::fprintf(stderr, "usage: caffe-nccl RANK SIZE FILE SOLVER\n");
    return 2;
  }
  google::InitGoogleLogging(argv[0]);
  const int rank = std::atoi(argv[1]);
  caffe::SolverParameter param;
  caffe::ReadSolverParamsFromTextFileOrDie(argv[4], &param);
  caffe::Caffe::SetDevice(0);
  caffe::Caffe::set_mode(caffe::Caffe::GPU);
  caffe::Caffe::set_solver_count(std::atoi(argv[2]));
  caffe::Caffe::set_solver_rank(rank);
  caffe::Caffe::set_multiprocess(true);
  boost::shared_ptr<caffe::Solver<float> > solver(
      caffe::SolverRegistry<float>::CreateSolver(param));
  caffe::NCCL<float> nccl(solver, GroupName(rank, argv[3]));
  solver->add_callback(&nccl);
  nccl.Broadcast();
  solver->Solve();
  return 0;
}
