// One core::Node, what its last event made it do, and its timers as the runtime keeps them.
#pragma once

#include "core_effects.hpp"
#include "node.hpp"

#include <algorithm>
#include <map>

namespace smartio::core::test {

class Bench {
public:
  Node node;
  std::vector<Effect> effects;
  std::map<Timer, std::chrono::milliseconds> timers; ///< armed
  Time now{};

  explicit Bench(NodeId id, Intent intent = {}, const std::string& boot_id = "here")
      : node({.node = id,
              .boot_id = boot_id,
              .fabric_token = std::string(32, 'f'),
              .nonce = std::string(64, 'a'),
              .bridges = {}},
             std::move(intent)) {
    on(Started{});
  }

  void on(Event event) {
    effects = node.handle(std::move(event), now);
    for (const auto& effect : effects) {
      if (const auto* arm = std::get_if<Arm>(&effect)) timers[arm->timer] = arm->after;
      if (const auto* disarm = std::get_if<Disarm>(&effect)) timers.erase(disarm->timer);
    }
  }
  void command(const char* name, Json arguments, ControlId from = 9) {
    on(Command{next_request_++, from, name, std::move(arguments)});
  }
  void receive(LinkId link, Message message) { on(Received{link, std::move(message)}); }
  /// Fires that timer of the armed ones, as the runtime would.
  void fire(Timer::Kind kind, std::uint64_t key) {
    const auto found = std::ranges::find_if(timers, [=](const auto& t) { return is(t.first, kind, key); });
    if (found != timers.end()) on(TimerFired{timers.extract(found).key()});
  }
  bool armed(Timer::Kind kind, std::uint64_t key) const {
    return std::ranges::any_of(timers, [=](const auto& t) { return is(t.first, kind, key); });
  }

  /// What the last event did, in words.
  std::string done() const { return words(effects); }
  template <class T> const T* find() const {
    for (const auto& effect : effects)
      if (const auto* found = std::get_if<T>(&effect)) return found;
    return nullptr;
  }
  template <class T> std::vector<T> sent(LinkId link) const {
    std::vector<T> messages;
    for (const auto& effect : effects)
      if (const auto* send = std::get_if<Send>(&effect); send != nullptr && send->link == link)
        if (const auto* message = std::get_if<T>(&send->message)) messages.push_back(*message);
    return messages;
  }

  std::string state(DeviceId id) const { return shown(id)["state"]; }
  Json shown(DeviceId id) const {
    const auto list = node.list_document();
    for (const auto& device : list["devices"])
      if (device["id"] == to_string(id)) return device;
    return {{"state", "unknown"}};
  }
  /// The devices and loans the node knows: what no stranger may change, even where its own connection ends by it.
  Json picture() const {
    auto status = node.status_document();
    for (auto& device : status["devices"]) device.erase("reachable");
    return {{"devices", status["devices"]}, {"loans", status["loans"]}};
  }

private:
  static bool is(const Timer& timer, Timer::Kind kind, std::uint64_t key) {
    return timer.kind == kind && timer.key == key;
  }
  RequestId next_request_ = 1;
};

} // namespace smartio::core::test
