// Several nodes, each with a simulated runtime (devices, loan sockets, clients, timers, state file), joined by a
// simulated network in virtual time. After each step the world looks for what must never be; `faults` names what it
// found.
#pragma once

#include "core_effects.hpp"
#include "core_network.hpp"
#include "node.hpp"

#include <memory>
#include <set>

namespace smartio::core::test {

class World {
public:
  /// A lent device as its host has it: who reaches it, by epoch.
  struct Device {
    struct User {
      unsigned host; ///< the borrower
      bool shared;
      bool ending = false, told = false, windows = false;
      Clock::Key patience{}; ///< until the clients have let go
    };
    bool open = false;
    bool asked = false; ///< to be probed, opened or closed
    std::string address{};
    std::map<std::uint64_t, User> users{};
    std::set<std::uint64_t> ended{};
  };
  /// A loan as the borrower's runtime has it.
  struct Socket {
    LinkId link;
    std::string nonce;
    bool shared;
    bool open = false, closing = false;
  };
  struct Host {
    NodeId id;
    std::string boot_id;
    std::unique_ptr<Node> node;
    std::uint64_t life = 0; ///< starts so far
    std::string saved{};    ///< its state file
    std::map<Timer, Clock::Key> timers{};
    std::map<DeviceId, Device> devices{};
    std::map<LoanId, Socket> sockets{};
    std::map<LinkId, std::size_t> links{}; ///< to connections
    std::set<RequestId> requests{};        ///< unanswered
  };

  Clock clock;
  Dice dice;
  std::vector<Host> hosts;
  std::vector<Connection> connections;
  std::vector<std::string> faults;
  bool trouble = false; ///< runtimes fail now and then
  std::uint64_t events = 0, loans = 0, ends = 0;

  World(std::uint64_t seed, std::vector<std::pair<unsigned, std::string>> nodes);

  void start(unsigned host);
  void crash(unsigned host);
  void tell(unsigned host, Event event);
  void command(unsigned host, const char* name, Json arguments, ControlId from = 1);
  void cut(std::size_t connection);
  void silence(std::size_t connection); ///< for some seconds; then it is cut
  void bridge(unsigned a, unsigned b, bool up);
  /// A program connects to the loan's socket and maps memory for the device.
  void use(unsigned host, const LoanId& loan);
  /// Somebody who has no such loan tries to reach the device with a connection of its own.
  void intrude(unsigned host, const LoanId& loan);
  void run_for(milliseconds time);
  /// Nothing fails any more, every loan is returned, and nothing is left to do: everything must be at rest.
  void rest();
  unsigned host_of(NodeId id) const;

private:
  void on(unsigned host, Reply& e);
  void on(unsigned host, Emit& e);
  void on(unsigned host, Save& e);
  void check_saved(const Host& host);
  void on(unsigned host, Dial& e);
  void on(unsigned host, Send& e);
  void on(unsigned host, Drop& e);
  void on(unsigned host, Arm& e);
  void on(unsigned host, Disarm& e);
  void on(unsigned host, ProbeDevice& e);
  void on(unsigned host, FindDevices& e);
  void on(unsigned host, OpenDevice& e);
  void on(unsigned host, CloseDevice& e);
  void on(unsigned host, ScanHost& e);
  void on(unsigned host, ReadConfig& e);
  void on(unsigned host, EndLoan& e);
  void on(unsigned host, ClientsReleased& e);
  void on(unsigned host, OpenLoan& e);
  void on(unsigned host, CloseLoan& e);
  void on(unsigned, ForgetDevice&) {}
  void on(unsigned, UseBridges&) {}
  void on(unsigned, Log&) {}
  void on(unsigned, Idle&) {}

  /// After a while, unless the host has crashed meanwhile.
  void later(unsigned host, milliseconds delay, std::function<Event()> event);
  void arrive(std::size_t connection, unsigned to, std::function<void(Connection::End&)> what);
  void close_end(Connection::End& end, const char* why);
  void watch(Connection& connection, unsigned from, const Message& message);
  bool admitted(unsigned host, const LoanId& loan, const Socket& socket);
  void attach(unsigned host, const LoanId& loan, bool shared);
  void detach(unsigned host, const LoanId& loan);
  void ask(DeviceId id, const char* what);
  Device& device(DeviceId id) { return hosts[host_of(lender_of(id))].devices[id]; }
  void cleaned(unsigned host, LoanId loan, bool last);
  void fault(std::string what) { faults.push_back(std::move(what)); }
  Result<Identity> identity(const std::string& address);
  std::optional<Error> failure(std::uint64_t rarity);

  RequestId next_request_ = 1;
  LinkId next_link_ = first_link;
};

} // namespace smartio::core::test
