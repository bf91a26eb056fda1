#include <smartio/memory.hpp>

#include "fd.hpp"
#include "mapping.hpp"
#include "page.hpp"
#include "result.hpp"

#include <sys/stat.h>

namespace smartio {
namespace detail {

struct Memory {
  Fd fd;
  std::size_t offset;
  Mapping mapping;
};

} // namespace detail

namespace {

Result<std::shared_ptr<detail::Memory>> map(Fd fd, std::size_t offset, std::size_t bytes) {
  Mapping mapping = TRY(Mapping::map(fd.get(), offset, bytes));
  return std::make_shared<detail::Memory>(std::move(fd), offset, std::move(mapping));
}

} // namespace

Result<Memory> Memory::allocate(std::size_t bytes, bool huge_pages) {
  const std::size_t page = huge_pages ? huge_page_size : page_size;
  if (bytes == 0 || bytes > PTRDIFF_MAX - page)
    return fail(Errc::bad_request, "Memory of {} bytes cannot be allocated", bytes);
  const std::size_t rounded = whole_pages(bytes, page);
  Fd fd = TRY(make_memfd("smartio-memory", rounded, huge_pages));
  return Memory(TRY(map(std::move(fd), 0, rounded)));
}

Result<Memory> Memory::from_fd(int fd, std::size_t offset, std::size_t bytes) {
  struct stat file = {};
  if (::fstat(fd, &file) != 0) return fail_errno(errno, fmt::format("look at descriptor {}", fd));
  if (!S_ISREG(file.st_mode) || bytes == 0 || !in_range(offset, bytes, static_cast<std::uint64_t>(file.st_size)))
    return fail(Errc::bad_request, "{} bytes at {} are not within the file of descriptor {}", bytes, offset, fd);
  if (offset % page_size != 0) return fail(Errc::bad_request, "Offset {} is not a multiple of {}", offset, page_size);
  Fd copy = TRY(duplicate(fd));
  return Memory(TRY(map(std::move(copy), offset, bytes)));
}

std::span<std::byte> Memory::bytes() const noexcept { return impl_->mapping.bytes(); }
int Memory::fd() const noexcept { return impl_->fd.get(); }
std::size_t Memory::offset() const noexcept { return impl_->offset; }

} // namespace smartio
