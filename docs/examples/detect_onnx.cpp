// Find objects with an exported file. Needs onnxruntime's C API; neither Python nor torch.
//
//   g++ -std=c++17 -I onnxruntime/include detect_onnx.cpp -L onnxruntime/lib -lonnxruntime -o detect_onnx
//   ./detect_onnx cells.onnx photo.ppm        (convert photo.jpg photo.ppm makes one; C++ itself decodes no JPEG)
#include <onnxruntime_c_api.h>
#include <cstdio>
#include <fstream>
#include <stdexcept>
#include <string>
#include <vector>

const OrtApi* ort = OrtGetApiBase()->GetApi(ORT_API_VERSION);
void check(OrtStatus* status) {
  if (status) throw std::runtime_error(ort->GetErrorMessage(status));
}

int main(int argc, char** argv) try {
  if (argc != 3) throw std::runtime_error("usage: detect_onnx MODEL.onnx PICTURE.ppm");
  std::ifstream file(argv[2], std::ios::binary);
  std::string magic;
  int64_t width = 0, height = 0, most = 0;
  if (!(file >> magic >> width >> height >> most) || magic != "P6" || most != 255 || width < 1 || height < 1)
    throw std::runtime_error("the picture is no binary PPM of 8 bits");
  std::vector<uint8_t> pixels(3 * width * height);  // upright, RGB, of any size
  file.get();
  if (!file.read(reinterpret_cast<char*>(pixels.data()), pixels.size())) throw std::runtime_error("the picture is cut off");

  OrtEnv* environment;
  OrtSessionOptions* options;
  OrtSession* session;
  OrtMemoryInfo* memory;
  OrtAllocator* allocator;
  check(ort->CreateEnv(ORT_LOGGING_LEVEL_WARNING, "detect", &environment));
  check(ort->CreateSessionOptions(&options));
  check(ort->CreateSession(environment, argv[1], options, &session));  // on Windows the path is wchar_t*
  check(ort->CreateCpuMemoryInfo(OrtArenaAllocator, OrtMemTypeDefault, &memory));
  check(ort->GetAllocatorWithDefaultOptions(&allocator));

  OrtModelMetadata* metadata;
  char *threshold, *names;  // both JSON: a number, and a list of texts that any JSON library reads
  check(ort->SessionGetModelMetadata(session, &metadata));
  check(ort->ModelMetadataLookupCustomMetadataMap(metadata, allocator, "threshold", &threshold));
  check(ort->ModelMetadataLookupCustomMetadataMap(metadata, allocator, "names", &names));
  std::printf("%s\n", names);

  const int64_t shape[] = {1, height, width, 3};
  const char *inputs[] = {"pixels"}, *outputs[] = {"boxes", "scores", "labels"};
  OrtValue *picture, *found[3] = {};
  check(ort->CreateTensorWithDataAsOrtValue(memory, pixels.data(), pixels.size(), shape, 4,
                                            ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8, &picture));
  check(ort->Run(session, nullptr, inputs, &picture, 1, outputs, 3, found));
  OrtTensorTypeAndShapeInfo* info;
  size_t count;
  float *box, *score;
  int64_t* label;
  check(ort->GetTensorTypeAndShape(found[1], &info));
  check(ort->GetTensorShapeElementCount(info, &count));
  check(ort->GetTensorMutableData(found[0], reinterpret_cast<void**>(&box)));
  check(ort->GetTensorMutableData(found[1], reinterpret_cast<void**>(&score)));
  check(ort->GetTensorMutableData(found[2], reinterpret_cast<void**>(&label)));
  for (size_t i = 0; i < count; ++i, box += 4)
    if (score[i] >= std::stof(threshold))  // label: the place in `names`; box: left, top, right, bottom in pixels
      std::printf("%lld %.3f %.1f %.1f %.1f %.1f\n", (long long)label[i], score[i], box[0], box[1], box[2], box[3]);
} catch (const std::exception& error) {
  std::fprintf(stderr, "%s\n", error.what());
  return 1;
}
