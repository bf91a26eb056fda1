#include "mapped_memory.hpp"

#include "mapping.hpp"

#include <algorithm>
#include <cerrno>
#include <fcntl.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

namespace smartio::vfio::user {
namespace {

/// Descriptors that one device's memory may hold here. A virtual machine has a few files, however many windows.
constexpr std::size_t most_files = 256;

std::uint64_t last_of(std::uint64_t first, std::uint64_t size) { return first + (size - 1); }

bool allows(Access has, Access right) { return (std::to_underlying(has) & std::to_underlying(right)) != 0; }

/// Only files in memory have seals to tell of; others may take as long as they like to give a page.
bool is_memory(int fd) { return ::fcntl(fd, F_GET_SEALS) >= 0; }

/// Copies between `bytes` and the file, by a system call that fails where the file has no page.
int copy(const Fd& file, std::uint64_t offset, std::span<std::byte> bytes, bool write) {
  struct stat status {};
  if (::fstat(file.get(), &status) != 0 || status.st_blksize <= 0) return EFAULT;
  const auto page = static_cast<std::uint64_t>(status.st_blksize); // of hugetlbfs: its huge page
  const auto begin = offset / page * page, skip = offset - begin;
  const auto mapping = Mapping::map(file.get(), begin, (skip + bytes.size() + page - 1) / page * page, write);
  if (!mapping) return EFAULT;
  const ::iovec here{bytes.data(), bytes.size()}, there{mapping->bytes().data() + skip, bytes.size()};
  const auto done = write ? ::process_vm_writev(::getpid(), &here, 1, &there, 1, 0)
                          : ::process_vm_readv(::getpid(), &here, 1, &there, 1, 0);
  return done == static_cast<ssize_t>(bytes.size()) ? 0 : EFAULT;
}

} // namespace

/// Nothing for what is no memory.
std::optional<MappedMemory::FileKey> MappedMemory::key_of(const Fd& fd) {
  struct stat status {};
  const int flags = fd && is_memory(fd.get()) ? ::fcntl(fd.get(), F_GETFL) : -1;
  if (flags < 0 || ::fstat(fd.get(), &status) != 0) return std::nullopt;
  return FileKey{status.st_dev, status.st_ino, flags & O_ACCMODE};
}

/// One descriptor for each file.
std::shared_ptr<const Fd> MappedMemory::file_of(const Fd& fd) {
  const auto key = key_of(fd);
  if (!key) return nullptr;
  if (const auto known = files_.find(*key); known != files_.end()) return known->second;
  auto copy = files_.size() < most_files ? fd.duplicate() : std::unexpected(Error{});
  if (!copy) return nullptr;
  return files_.emplace(*key, std::make_shared<const Fd>(std::move(*copy))).first->second;
}

Completion MappedMemory::noting(const Request& request, Completion done) {
  if (const auto* map = std::get_if<DmaMap>(&request)) {
    const auto first = std::to_underlying(map->iova);
    pending_.push_back({first, last_of(first, map->size), map->access, file_of(map->fd), map->offset});
    return
        [self = shared_from_this(), window = std::prev(pending_.end()), done = std::move(done)](Reply reply) mutable {
          self->settle(window, reply.has_value());
          done(std::move(reply));
        };
  }
  if (const auto* unmap = std::get_if<DmaUnmap>(&request))
    return [self = shared_from_this(), range = *unmap, done = std::move(done)](Reply reply) mutable {
      if (reply) self->erase(range);
      done(std::move(reply));
    };
  return done;
}

/// The answer to a map is there. A server that takes two windows for one address has the older one served.
void MappedMemory::settle(std::list<Window>::iterator window, bool mapped) {
  const auto first = window->first, last = window->last;
  if (mapped && windows_.overlapping({first, last}).empty())
    windows_.add(first, last - first + 1, std::move(*window));
  else
    drop(*window);
  pending_.erase(window);
}

void MappedMemory::erase(const DmaUnmap& range) {
  const auto asked = range_of(range);
  const auto found = windows_.beginning_in(asked);
  for (auto at = found.begin(); at != found.end();) {
    const bool within = asked.contains(windows_.range_of(*at));
    if (within) drop(at->second.value);
    at = within ? windows_.erase(at) : std::next(at);
  }
}

/// A file that no window needs any more is closed.
void MappedMemory::drop(Window& window) {
  const auto file = std::move(window.file);
  const auto key = file && file.use_count() == 2 ? key_of(*file) : std::nullopt; // its place there, and here
  if (key) files_.erase(*key);
}

void MappedMemory::clear() {
  windows_.clear();
  for (auto& window : pending_) window.file.reset();
  files_.clear();
}

const MappedMemory::Window* MappedMemory::find(std::uint64_t iova) const {
  if (const auto found = windows_.overlapping({iova, iova}); !found.empty()) return &found.begin()->second.value;
  const auto holds = [iova](const Window& window) { return window.first <= iova && iova <= window.last; };
  const auto pending = std::ranges::find_if(pending_, holds);
  return pending == pending_.end() ? nullptr : &*pending;
}

/// The windows that hold the range, which must not wrap, or the errno it is refused with.
std::expected<std::vector<MappedMemory::Part>, int> MappedMemory::parts(Iova iova, std::uint64_t count,
                                                                        Access right) const {
  std::vector<Part> all;
  for (auto at = std::to_underlying(iova); count != 0;) {
    const auto* window = find(at);
    if (window == nullptr || !window->file) return std::unexpected(EFAULT);
    if (!allows(window->access, right)) return std::unexpected(EACCES);
    const auto size = std::min(count - 1, window->last - at) + 1;
    all.push_back({window, at, size});
    count -= size;
    at += size;
    if (count != 0 && at == 0) return std::unexpected(EFAULT);
  }
  return all;
}

std::expected<std::vector<std::byte>, int> MappedMemory::read(Iova iova, std::uint32_t count) const {
  const auto found = parts(iova, count, Access::read);
  if (!found) return std::unexpected(found.error());
  std::vector<std::byte> data(count);
  auto rest = std::span(data);
  for (const auto& [window, first, size] : *found) {
    const int error = copy(*window->file, window->offset + (first - window->first), rest.first(size), false);
    if (error != 0) return std::unexpected(error);
    rest = rest.subspan(size);
  }
  return data;
}

int MappedMemory::write(Iova iova, std::span<const std::byte> data) const {
  const auto found = parts(iova, data.size(), Access::write);
  if (!found) return found.error();
  for (const auto& [window, first, size] : *found) {
    const std::span bytes(const_cast<std::byte*>(data.data()), size); // is only read
    const int error = copy(*window->file, window->offset + (first - window->first), bytes, true);
    if (error != 0) return error;
    data = data.subspan(size);
  }
  return 0;
}

} // namespace smartio::vfio::user
