// The management commands, one function each: check, change or start, answer.
#include "addresses.hpp"
#include "node.hpp"

#include <algorithm>

namespace smartio::core {

namespace {

/// An optional text: nullopt when it is missing or null.
Result<std::optional<std::string>> optional_text(const Json& arguments, const char* key) {
  if (const auto found = arguments.find(key); found == arguments.end() || found->is_null()) return std::nullopt;
  return TRY(get_string(arguments, key));
}

bool flag(const Json& arguments, const char* key) { return get_bool(arguments, key).value_or(false); }

} // namespace

/// An own device by its address, or any device by its id. Errc::no_such_device.
Result<DeviceId> Node::find_device(const Json& arguments) const {
  const auto text = TRY(get_string(arguments, "device"));
  if (const auto id = own_by_address(text)) return *id;
  if (text.find_first_of(":.") != std::string::npos) {
    const auto address = parse_address(text);
    if (!address && address.error().code == Errc::bad_request) return std::unexpected(address.error());
    return fail(Errc::no_such_device, "{} has not been added", text);
  }
  const auto id = TRY(parse_device_id(text));
  if (lender_of(id) == settings_.node) {
    if (devices_.find(index_of(id)) != nullptr) return id;
  } else if (const auto lender = lenders_.find(lender_of(id)); lender != lenders_.end()) {
    if (lender->second.devices.contains(id)) return id;
  }
  return fail(Errc::no_such_device, "no device {} is known to node {}", to_string(id), number(settings_.node));
}

void Node::command_node(Command& c) {
  reply(c.request, Json{{"node", number(settings_.node)}, {"version", SMARTIO_VERSION}});
}

void Node::command_monitor(Command& c) { reply(c.request, Json::object()); }

void Node::command_add(Command& c) {
  const auto text = get_string(c.arguments, "device");
  if (!text) return reply(c.request, std::unexpected(text.error()));
  const auto address = parse_address(*text);
  if (!address) return reply(c.request, std::unexpected(address.error()));
  const bool by_hand = c.request < first_own_request;
  if (const auto id = own_by_address(*address)) {
    auto* device = own(*id);
    if (by_hand) added_by_hand(index_of(*id), *device);
    if (device->asked == Asked::probe) return device->waiting.push_back(c.request);
    return reply(c.request, Json{{"device", to_string(*id)}},
                 fmt::format("{} is device {} already", *address, to_string(*id)));
  }
  const auto index = devices_.lowest_free();
  if (!index) return reply(c.request, fail(Errc::no_window, "the list of devices is full"));
  if (intent_.removed.erase(*address) != 0) save(removed_line(intent_));
  auto& device = devices_.add(*index, *address);
  device.by_filter = !by_hand;
  device.waiting.push_back(c.request);
  probe(make_device_id(settings_.node, *index), device);
}

/// What filters have added: it stays when they go.
void Node::added_by_hand(std::uint16_t index, OwnDevice& device) {
  device.by_filter = false;
  const auto entry = intent_.devices.find(index);
  if (entry != intent_.devices.end() && std::exchange(entry->second.by_filter, false))
    save(device_line(intent_, index));
}

void Node::command_remove(Command& c) {
  const auto id = find_device(c.arguments);
  if (!id) return reply(c.request, std::unexpected(id.error()));
  auto* device = own(*id);
  if (device == nullptr)
    return reply(c.request, fail(Errc::not_permitted, "device {} is node {}'s: remove it there", to_string(*id),
                                 number(lender_of(*id))));
  if (device->asked == Asked::probe)
    return reply(c.request, fail(Errc::busy, "device {} is being added: try again", to_string(*id)));
  if (device->state != DeviceState::unavailable || device->asked != Asked::nothing)
    return reply(c.request, fail(Errc::wrong_state, "device {} is {}: make it unavailable first", to_string(*id),
                                 device->asked == Asked::open ? "being made available" : to_string(device->state)));
  if (c.request < first_own_request && !intent_.filters.empty()) {
    intent_.removed.insert(device->address);
    save(removed_line(intent_));
  }
  remove(*id);
  reply(c.request, Json{{"device", to_string(*id)}});
}

void Node::remove(DeviceId id) {
  drop(id);
  if (intent_.devices.erase(index_of(id)) != 0) save(device_line(intent_, index_of(id)));
  announce(id);
  emit("device-removed", {{"device", to_string(id)}});
}

void Node::command_available(Command& c) {
  const auto id = find_device(c.arguments);
  if (!id) return reply(c.request, std::unexpected(id.error()));
  auto* device = own(*id);
  if (device == nullptr)
    return reply(c.request, fail(Errc::not_permitted, "device {} is node {}'s: make it available there", to_string(*id),
                                 number(lender_of(*id))));
  if (device->asked == Asked::open) return device->waiting.push_back(c.request);
  if (device->asked == Asked::probe || device->leaving || device->asked == Asked::close)
    return reply(c.request, fail(Errc::busy, "device {} is being {}: try again", to_string(*id),
                                 device->asked == Asked::probe ? "added" : "made unavailable"));
  if (device->state == DeviceState::available || device->state == DeviceState::borrowed)
    return reply(c.request, Json{{"device", to_string(*id)}},
                 fmt::format("device {} is {} already", to_string(*id), to_string(device->state)));
  const bool without_reset = flag(c.arguments, "without_reset");
  if (without_reset && parse_bdf(device->address))
    return reply(c.request, fail(Errc::not_permitted, "{} is a device of the host: it is not lent without a reset",
                                 device->address));
  if (device->state == DeviceState::quarantined) {
    if (!flag(c.arguments, "force"))
      return reply(c.request, fail(Errc::wrong_state, "device {} is quarantined ({}): --force tries it again",
                                   to_string(*id), device->reason));
    if (!device->shares.empty())
      return reply(c.request, fail(Errc::busy, "device {}: its last loan has not ended yet", to_string(*id)));
    device->waiting.push_back(c.request);
    device->without_reset = device->without_reset || without_reset;
    device->reopens = true;
    return close(*id, *device);
  }
  device->waiting.push_back(c.request);
  device->without_reset = without_reset;
  open(*id, *device, flag(c.arguments, "force"));
}

void Node::command_unavailable(Command& c) {
  const auto id = find_device(c.arguments);
  if (!id) return reply(c.request, std::unexpected(id.error()));
  auto* device = own(*id);
  if (device == nullptr)
    return reply(c.request, fail(Errc::not_permitted, "device {} is node {}'s: make it unavailable there",
                                 to_string(*id), number(lender_of(*id))));
  const auto wanted = intent_.devices.find(index_of(*id)); // not there yet while it is being added
  if (wanted != intent_.devices.end() && std::exchange(wanted->second.available, false))
    save(device_line(intent_, index_of(*id)));
  if (device->asked == Asked::open || device->asked == Asked::probe)
    return reply(c.request, fail(Errc::busy, "device {} is being made available: try again", to_string(*id)));
  if (device->state == DeviceState::unavailable)
    return reply(c.request, Json{{"device", to_string(*id)}},
                 fmt::format("device {} is unavailable already", to_string(*id)));
  if (std::exchange(device->reopens, false))
    reply(device->waiting, fail(Errc::revoked, "device {} is made unavailable instead", to_string(*id)));
  device->waiting.push_back(c.request);
  if (device->asked == Asked::close) return;
  if (device->shares.empty()) return close(*id, *device);
  device->leaving = true;
  end_shares(*id, *device, fmt::format("node {} made it unavailable", number(settings_.node)));
}

void Node::command_filters(Command& c) { reply(c.request, core::filters_document(view())); }
void Node::command_list(Command& c) { reply(c.request, core::list_document(view())); }
void Node::command_status(Command& c) { reply(c.request, core::status_document(view())); }

void Node::command_show(Command& c) {
  const auto id = find_device(c.arguments);
  if (!id) return reply(c.request, std::unexpected(id.error()));
  reply(c.request, show_document(view(), *id));
}

void Node::command_borrow(Command& c) { take(c, 0); }
void Node::command_open(Command& c) { take(c, c.from); }

/// A control connection needs the loan no longer: whether nobody else does.
bool Node::disown(Loan& loan, ControlId owner) {
  return loan.owners.erase(owner) != 0 && loan.owners.empty() && !loan.kept;
}

/// Takes the loan for `owner`, or gives the one this node has; 0: for the node.
void Node::take(Command& c, ControlId owner) {
  const auto id = find_device(c.arguments);
  if (!id) return reply(c.request, std::unexpected(id.error()));
  if (stopping_) return reply(c.request, fail(Errc::peer_down, "node {} is stopping", number(settings_.node)));
  if (!settings_.can_borrow)
    return reply(c.request, fail(Errc::not_permitted, "this node has no run directory, so it cannot borrow"));
  const auto window =
      c.arguments.contains("window") ? get_number(c.arguments, "window") : Result<std::uint64_t>(std::uint64_t{0});
  if (!window) return reply(c.request, std::unexpected(window.error()));
  const auto found = loans_.find(*id);
  const auto add_owner = [owner](Loan& loan) {
    loan.kept = loan.kept || owner == 0;
    if (owner != 0) loan.owners.insert(owner);
  };
  if (found == loans_.end()) {
    Loan loan{.shared = flag(c.arguments, "shared"),
              .window = *window,
              .user = get_string(c.arguments, "owner").value_or("")};
    add_owner(loan);
    return borrow(*id, std::move(loan), c.request);
  }
  auto& loan = found->second;
  if (owner != 0) taken_.emplace(owner, *id);
  if (loan.phase > Loan::Phase::open || loan.unwanted) return loan.next.emplace_back(std::move(c), owner), void();
  if (owner != 0 && !loan.usage.client.empty())
    return reply(c.request, fail(Errc::busy, "device {} is in use by process {}", to_string(*id), loan.usage.pid));
  if (*window > loan.window)
    return reply(c.request,
                 fail(Errc::wrong_state, "device {} is borrowed already, with {} bytes reserved: return it first",
                      to_string(*id), loan.window));
  add_owner(loan);
  if (loan.phase != Loan::Phase::open) return loan.waiting.push_back(c.request);
  reply(c.request, Json{{"device", to_string(*id)}, {"socket", loan.socket}, {"epoch", loan.epoch}},
        owner == 0 ? fmt::format("device {} is borrowed already", to_string(*id)) : "");
}

void Node::command_return(Command& c) {
  const auto id = find_device(c.arguments);
  const auto found = id ? loans_.find(*id) : loans_.end();
  if (!id) return reply(c.request, std::unexpected(id.error()));
  if (found == loans_.end())
    return reply(c.request, Json{{"device", to_string(*id)}},
                 fmt::format("device {} is not borrowed by this node", to_string(*id)));
  // Whoever opened a device returns what was borrowed for it, and nobody else's loan.
  if (flag(c.arguments, "opened") && !disown(found->second, c.from))
    return reply(c.request, Json{{"device", to_string(*id)}, {"kept", true}},
                 fmt::format("device {} stays borrowed", to_string(*id)));
  end_as(found->second, LoanEnd::returned, fmt::format("node {} returned it", number(settings_.node)));
  found->second.returners.push_back(c.request);
  return_loan(*id, found->second);
}

void Node::command_config(Command& c) {
  auto option = optional_text(c.arguments, "option");
  const auto value = optional_text(c.arguments, "value");
  if (!option || !value) return reply(c.request, std::unexpected(option ? value.error() : option.error()));
  if (*option) *option = hyphenated(**option);
  if (*option && !is_option(**option))
    return reply(c.request, fail(Errc::bad_request,
                                 "there is no option '{}': the options are iommu, ntb and peer-timeout", **option));
  if (*option && *value) {
    auto parsed = parse_option(**option, **value);
    if (!parsed) return reply(c.request, std::unexpected(parsed.error()));
    intent_.options[**option] = std::move(*parsed);
    save(options_line(intent_));
    if (**option == "ntb") use_bridges();
  }
  const auto iommu = intent_.options.find("iommu");
  reply(c.request, Json{{"options",
                         {{"iommu", iommu == intent_.options.end() ? "auto" : iommu->second},
                          {"ntb", fmt::format("{}", fmt::join(bridges(), ","))},
                          {"peer-timeout", fmt::format("{}", peer_timeout().count())}}}});
}

} // namespace smartio::core
