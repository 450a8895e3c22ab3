/* Runs one signature of a SavedModel through TensorFlow's C interface, as a program without Python does.

   run_signature DIR [in TENSOR TYPE FILE DIM...]... [out TENSOR FILE]...

   TENSOR is a name of the graph such as `serving_default_z:0`; TYPE is float, int64, int32 or uint8; FILE holds the raw
   values. Of each output the type and shape are printed and the raw values written; a string is written as its length,
   eight bytes, and its bytes. */

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <tensorflow/c/c_api.h>

#define MOST 8

static void fail(const char *what, const char *detail) {
  fprintf(stderr, "run_signature: %s: %s\n", what, detail);
  exit(1);
}

static TF_Output find(TF_Graph *graph, const char *tensor) {
  char name[512];
  const char *colon = strrchr(tensor, ':');
  size_t length = colon ? (size_t)(colon - tensor) : strlen(tensor);
  TF_Output output;
  if (length >= sizeof name) fail("name too long", tensor);
  memcpy(name, tensor, length);
  name[length] = 0;
  output.oper = TF_GraphOperationByName(graph, name);
  output.index = colon ? atoi(colon + 1) : 0;
  if (output.oper == NULL) fail("no such operation", name);
  return output;
}

static TF_DataType type_of(const char *name, size_t *size) {
  if (!strcmp(name, "float")) return *size = 4, TF_FLOAT;
  if (!strcmp(name, "int64")) return *size = 8, TF_INT64;
  if (!strcmp(name, "int32")) return *size = 4, TF_INT32;
  if (!strcmp(name, "uint8")) return *size = 1, TF_UINT8;
  fail("unknown type", name);
  return TF_FLOAT;
}

static TF_Tensor *read_tensor(const char *type, const char *path, char **dims, int num_dims) {
  int64_t shape[MOST];
  size_t bytes;
  TF_DataType dtype = type_of(type, &bytes);
  if (num_dims > MOST) fail("too many dimensions", path);
  for (int i = 0; i < num_dims; i++) bytes *= (size_t)(shape[i] = atoll(dims[i]));
  TF_Tensor *tensor = TF_AllocateTensor(dtype, shape, num_dims, bytes);
  FILE *file = fopen(path, "rb");
  if (file == NULL) fail("cannot open", path);
  if (fread(TF_TensorData(tensor), 1, bytes, file) != bytes || fgetc(file) != EOF) fail("size differs from shape", path);
  fclose(file);
  return tensor;
}

static void write_tensor(const char *name, const TF_Tensor *tensor, const char *path) {
  FILE *file = fopen(path, "wb");
  if (file == NULL) fail("cannot open", path);
  printf("%s %d", name, (int)TF_TensorType(tensor));
  for (int i = 0; i < TF_NumDims(tensor); i++) printf(" %lld", (long long)TF_Dim(tensor, i));
  printf("\n");
  if (TF_TensorType(tensor) == TF_STRING) {
    const TF_TString *strings = TF_TensorData(tensor);
    for (int64_t i = 0; i < TF_TensorElementCount(tensor); i++) {
      uint64_t size = TF_StringGetSize(&strings[i]);
      fwrite(&size, sizeof size, 1, file);
      fwrite(TF_StringGetDataPointer(&strings[i]), 1, size, file);
    }
  } else {
    fwrite(TF_TensorData(tensor), 1, TF_TensorByteSize(tensor), file);
  }
  if (fclose(file) != 0) fail("cannot write", path);
}

int main(int argc, char **argv) {
  const char *tags[] = {"serve"}, *paths[MOST];
  TF_Output inputs[MOST], outputs[MOST];
  TF_Tensor *values[MOST], *results[MOST];
  const char *names[MOST];
  int num_inputs = 0, num_outputs = 0;
  if (argc < 2) fail("usage", "run_signature DIR [in TENSOR TYPE FILE DIM...]... [out TENSOR FILE]...");

  TF_Status *status = TF_NewStatus();
  TF_Graph *graph = TF_NewGraph();
  TF_SessionOptions *options = TF_NewSessionOptions();
  TF_Session *session = TF_LoadSessionFromSavedModel(options, NULL, argv[1], tags, 1, graph, NULL, status);
  if (TF_GetCode(status) != TF_OK) fail("cannot load", TF_Message(status));

  for (int i = 2; i < argc;) {
    int end = i + 1;
    while (end < argc && strcmp(argv[end], "in") && strcmp(argv[end], "out")) end++;
    if (!strcmp(argv[i], "in") && end - i >= 4 && num_inputs < MOST) {
      inputs[num_inputs] = find(graph, argv[i + 1]);
      values[num_inputs++] = read_tensor(argv[i + 2], argv[i + 3], argv + i + 4, end - i - 4);
    } else if (!strcmp(argv[i], "out") && end - i == 3 && num_outputs < MOST) {
      names[num_outputs] = argv[i + 1];
      outputs[num_outputs] = find(graph, argv[i + 1]);
      paths[num_outputs++] = argv[i + 2];
    } else {
      fail("wrong argument", argv[i]);
    }
    i = end;
  }

  TF_SessionRun(session, NULL, inputs, values, num_inputs, outputs, results, num_outputs, NULL, 0, NULL, status);
  if (TF_GetCode(status) != TF_OK) fail("cannot run", TF_Message(status));
  for (int i = 0; i < num_outputs; i++) {
    write_tensor(names[i], results[i], paths[i]);
    TF_DeleteTensor(results[i]);
  }
  for (int i = 0; i < num_inputs; i++) TF_DeleteTensor(values[i]);
  TF_CloseSession(session, status);
  TF_DeleteSession(session, status);
  TF_DeleteGraph(graph);
  TF_DeleteSessionOptions(options);
  TF_DeleteStatus(status);
  return 0;
}
