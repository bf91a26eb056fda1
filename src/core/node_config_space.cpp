// Reading a device's configuration space from any node: own devices by the shell, others by asking their lender.
#include "node.hpp"

namespace smartio::core {

namespace {
constexpr unsigned most_reads = 16; ///< that one peer has under way here
} // namespace

void Node::command_config_space(Command& c) {
  const auto id = find_device(c.arguments);
  if (!id) return reply(c.request, std::unexpected(id.error()));
  const auto text = get_string(c.arguments, "form").value_or("vfio");
  const auto form = parse_form(text);
  if (!form) return reply(c.request, fail(Errc::bad_request, "there is no form '{}' of a configuration space", text));
  if (const auto* device = own(*id)) {
    own_reads_[c.request] = *id;
    return effects_.push_back(ReadConfig{c.request, *id, device->address, *form});
  }
  const auto lender = lenders_.find(lender_of(*id));
  if (lender == lenders_.end() || lender->second.link == 0)
    return reply(c.request, fail(Errc::peer_down, "node {}, which has device {}, is not connected now",
                                 static_cast<unsigned>(lender_of(*id)), to_string(*id)));
  send(lender->second.link,
       ConfigRequest{
           expect_answer(
               {.kind = Pending::Kind::config, .link = lender->second.link, .device = *id, .reader = c.request}),
           *id, *form});
}

void Node::on(ConfigRead& read) {
  if (const auto own_read = own_reads_.extract(read.request); !own_read.empty())
    return reply_config(read.request, own_read.mapped(), std::move(read.hex));
  const auto peer = peer_reads_.extract(read.request);
  if (peer.empty() || !links_.contains(peer.mapped().link)) return;
  --links_[peer.mapped().link].reads;
  ConfigAnswer answer{peer.mapped().number, {}, {}, {}};
  if (read.hex) {
    answer.hex = std::move(*read.hex);
  } else {
    const auto& code = read.hex.error().code;
    answer.code = code.category() == smartio_category() ? static_cast<Errc>(code.value()) : Errc::wrong_state;
    answer.message = to_string(read.hex.error()).substr(0, text_limit);
  }
  send(peer.mapped().link, std::move(answer));
}

void Node::receive(LinkId link, const ConfigRequest& request) {
  const auto* device = own(request.device);
  if (!links_[link].dialled) return close_link(link, "it asked for a device but is no borrower");
  if (device == nullptr)
    return send(link, ConfigAnswer{request.number,
                                   {},
                                   Errc::no_such_device,
                                   fmt::format("there is no device {}", to_string(request.device))});
  if (links_[link].reads >= most_reads)
    return send(link, ConfigAnswer{request.number, {}, Errc::busy, "too many configuration spaces are being read"});
  ++links_[link].reads;
  const auto read = next_request_++;
  peer_reads_[read] = {link, request.number};
  effects_.push_back(ReadConfig{read, request.device, device->address, request.form});
}

void Node::receive(LinkId link, ConfigAnswer& answer) {
  const auto pending = pending_.find(answer.number);
  if (pending == pending_.end() || pending->second.link != link || pending->second.kind != Pending::Kind::config)
    return close_link(link, "it answered what was not asked");
  const Pending asked = pending->second;
  pending_.erase(pending);
  effects_.push_back(Disarm{{Timer::Kind::answer, answer.number}});
  if (asked.late) --links_[link].unanswered;
  if (asked.late) return;
  if (answer.code != Errc{}) return reply(asked.reader, fail(answer.code, "{}", answer.message));
  reply_config(asked.reader, asked.device, std::move(answer.hex));
}

void Node::reply_config(RequestId request, DeviceId id, Result<std::string> hex) {
  if (!hex) return reply(request, std::unexpected(hex.error()));
  std::string address;
  if (const auto* device = own(id)) address = device->address;
  if (const auto lender = lenders_.find(lender_of(id)); address.empty() && lender != lenders_.end())
    if (const auto entry = lender->second.devices.find(id); entry != lender->second.devices.end())
      address = entry->second.address;
  reply(request, Json{{"device", to_string(id)}, {"address", address}, {"hex", std::move(*hex)}});
}

} // namespace smartio::core
