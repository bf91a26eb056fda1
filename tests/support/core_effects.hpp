// Effects of a node in few words, for tables: "16: answer busy", "end 80000/1 last". What only tells people (events,
// log, state, the list of devices) or keeps time is left out.
#pragma once

#include "events.hpp"
#include "text.hpp"

#include <fmt/format.h>
#include <string>
#include <vector>

namespace smartio::core::test {

/// The nonce that a runtime would draw for that connection.
inline std::string nonce_of(LinkId link) { return fmt::format("{:064x}", link); }

template <class... F> struct Overloaded : F... { using F::operator()...; };

inline std::string word(Errc code) { return code == Errc{} ? "ok" : std::string(name_of(code)); }
inline std::string word(const LoanId& loan) { return fmt::format("{}/{}", to_string(loan.device), loan.epoch); }
inline Errc code_of(const Result<Json>& result) {
  return result ? Errc{} : static_cast<Errc>(result.error().code.value());
}

inline std::string word(const Message& message) {
  return std::visit(Overloaded{[](const Hello&) -> std::string { return "hello"; },
                               [](const Refused&) -> std::string { return "refused"; },
                               [](const BorrowRequest& m) { return "borrow " + to_string(m.device); },
                               [](const ReturnRequest& m) {
                                 return "return " + word(LoanId{m.device, m.epoch});
                               },
                               [](const Answer& m) { return "answer " + word(m.code); },
                               [](const TakenBack& m) {
                                 return "taken back " + word(LoanId{m.device, m.epoch});
                               },
                               [](const Released& m) {
                                 return "released " + word(LoanId{m.device, m.epoch});
                               },
                               [](const ConfigRequest& m) { return "config " + to_string(m.device); },
                               [](const ConfigAnswer& m) { return "config answer " + word(m.code); },
                               [](const auto&) { return std::string{}; }},
                    message);
}

inline std::string word(const Effect& effect) {
  return std::visit(
      Overloaded{[](const Reply& e) { return "reply " + word(code_of(e.result)); },
                 [](const Dial& e) { return fmt::format("dial {}", number(e.node)); },
                 [](const Send& e) {
                   const auto text = word(e.message);
                   return text.empty() ? text : fmt::format("{}: {}", e.link, text);
                 },
                 [](const Drop& e) { return fmt::format("drop {}", e.link); },
                 [](const ProbeDevice& e) { return "probe " + to_string(e.device); },
                 [](const FindDevices&) { return std::string("find"); },
                 [](const OpenDevice& e) { return "open " + to_string(e.device) + (e.force ? " by force" : ""); },
                 [](const CloseDevice& e) { return "close " + to_string(e.device); },
                 [](const ReadConfig& e) { return "read " + to_string(e.device); },
                 [](const EndLoan& e) { return "end " + word(e.loan) + (e.last ? " last" : ""); },
                 [](const ClientsReleased& e) { return "clients released " + word(e.loan); },
                 [](const OpenLoan& e) { return "use " + word(e.loan); },
                 [](const CloseLoan& e) { return "let go " + word(e.loan) + (e.orderly ? "" : " at once"); },
                 [](const auto&) { return std::string{}; }},
      effect);
}

inline std::string words(const std::vector<Effect>& effects) {
  std::string text;
  for (const auto& effect : effects)
    if (const auto one = word(effect); !one.empty()) text += (text.empty() ? "" : ", ") + one;
  return text;
}

} // namespace smartio::core::test
