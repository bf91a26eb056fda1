// What waits until nobody uses something any more.
#pragma once

#include <memory>

namespace smartio {

class Uses {
public:
  /// To be held as long as the use lasts; null once it is over.
  std::shared_ptr<void> begin() const { return end_; }
  /// `after` is let go when the last use has ended. There are no more.
  void over(std::shared_ptr<void> after) {
    if (end_) end_->after = std::move(after);
    end_.reset();
  }

private:
  struct End {
    std::shared_ptr<void> after;
  };
  std::shared_ptr<End> end_ = std::make_shared<End>();
};

} // namespace smartio
