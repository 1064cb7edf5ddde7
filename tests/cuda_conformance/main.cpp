// Goal:   the driver does what our code and its software double take it to do: what differs between
//         the two is a defect of the double.
// Method: cases in terms of the driver's interface alone, on CAUSEWAY_CUDA_LIBRARY or libcuda.so.1;
//         `--reporters=json --out=FILE` writes what became of each.
#define DOCTEST_CONFIG_IMPLEMENT
#include <doctest/doctest.h>

#include <iostream>
#include <mutex>

#include "tests/allocator/cuda/program_main.h"

namespace {

std::string json_text(const std::string& text) {
  std::string result = "\"";
  for (const char c : text) {
    if (c == '"' || c == '\\') result += '\\';
    result += c < ' ' || c > '~' ? '?' : c;  // What is no ASCII text might be no UTF-8 either.
  }
  return result + "\"";
}

struct JsonReporter : doctest::IReporter {
  explicit JsonReporter(const doctest::ContextOptions& options) : out(*options.cout) {}

  void test_case_start(const doctest::TestCaseData& in) override {
    name = in.m_name;
    notes.clear();
    std::cerr << name << std::endl;  // A crash that no reporter survives is this case's.
  }
  void test_case_end(const doctest::CurrentTestCaseStats& stats) override {
    const bool skipped = notes.find("\"skipped: ") != std::string::npos;
    const char* result = stats.failure_flags != 0 ? "failed" : skipped ? "skipped" : "passed";
    ++(stats.failure_flags != 0 ? failed : skipped ? skips : passed);
    cases += (cases.empty() ? "" : ",\n") + std::string("  {\"name\": ") + json_text(name) +
             ", \"result\": \"" + result + "\", \"notes\": [" + notes + "]}";
  }
  void log_assert(const doctest::AssertData& assert) override {
    if (!assert.m_failed) return;
    note(std::string(assert.m_file) + ":" + std::to_string(assert.m_line) + ": " + assert.m_expr +
         " is " + assert.m_decomp.c_str());
  }
  void log_message(const doctest::MessageData& message) override { note(message.m_string.c_str()); }
  void test_case_exception(const doctest::TestCaseException& exception) override {
    note(exception.error_string.c_str());
  }
  void test_run_end(const doctest::TestRunStats&) override {
    out << "{\"passed\": " << passed << ", \"failed\": " << failed << ", \"skipped\": " << skips
        << ", \"cases\": [\n"
        << cases.c_str() << "\n]}\n"
        << std::flush;  // After a signal, the process ends before anyone else does it.
  }
  void report_query(const doctest::QueryData&) override {}
  void test_run_start() override {}
  void test_case_reenter(const doctest::TestCaseData&) override {}
  void subcase_start(const doctest::SubcaseSignature&) override {}
  void subcase_end() override {}
  void test_case_skipped(const doctest::TestCaseData&) override {}

 private:
  void note(const std::string& text) {
    const std::lock_guard lock(mutex);
    notes += (notes.empty() ? "" : ", ") + json_text(text);
  }

  std::ostream& out;
  std::mutex mutex;
  std::string name, notes, cases;
  int passed = 0, failed = 0, skips = 0;
};

REGISTER_REPORTER("json", 1, JsonReporter);

}  // namespace
