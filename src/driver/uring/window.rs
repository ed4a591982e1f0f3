//! How many buffers lie ready for the kernel at a time.

/// After so many publications without a lack of buffers, fewer are tried.
const NARROW_AFTER: u32 = 1024;

/// The same, when fewer have turned out to be too few again and again.
const NARROW_AFTER_AT_MOST: u32 = 64 * NARROW_AFTER;

/// The kernel takes buffers in turn, so all that lie ready pass through the cache: as few as suffice are best.
///
/// The window doubles when the kernel found no buffer, and every now and then half of it is tried. Whoever takes many
/// buffers at a time shows that he could do with fewer only by being given fewer. Where they turn out to be too few, the
/// next trial comes after twice the time.
#[derive(Debug)]
pub(super) struct Window {
    size: usize,
    least: usize,
    most: usize,
    /// The kernel found no buffer since the last publication, however often.
    short: bool,
    /// Publications since the size changed.
    published: u32,
    patience: u32,
    /// The last change was a narrowing.
    on_trial: bool,
}

impl Window {
    pub(super) fn new(least: usize, most: usize) -> Self {
        let least = least.min(most);
        Window {
            size: least,
            least,
            most,
            short: false,
            published: 0,
            patience: NARROW_AFTER,
            on_trial: false,
        }
    }

    pub(super) fn size(&self) -> usize {
        self.size
    }

    /// The kernel found no buffer.
    pub(super) fn note_shortage(&mut self) {
        self.short = true;
    }

    /// To be called before buffers are published, while the kernel has `ready` of them.
    pub(super) fn adapt(&mut self, ready: usize) {
        if std::mem::take(&mut self.short) {
            self.patience = match self.on_trial {
                true => (self.patience * 2).min(NARROW_AFTER_AT_MOST),
                false => NARROW_AFTER,
            };
            self.change(self.size.saturating_mul(2).min(self.most), false);
        } else if ready < self.size {
            self.published += 1;
            if self.published >= self.patience && self.size > self.least {
                self.change((self.size / 2).max(self.least), true);
            }
        }
    }

    fn change(&mut self, size: usize, on_trial: bool) {
        (self.size, self.on_trial, self.published) = (size, on_trial, 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Publications in which the kernel takes `taken` buffers each, as far as there are any.
    fn publish(window: &mut Window, times: u32, taken: usize) -> usize {
        let mut shortages = 0;
        for _ in 0..times {
            if taken > window.size() {
                window.note_shortage();
                shortages += 1;
            }
            window.adapt(window.size().saturating_sub(taken));
        }
        shortages
    }

    #[test]
    fn shortages_of_one_turn_double_it_once() {
        let mut window = Window::new(16, 32_768);
        for _ in 0..12 {
            window.note_shortage();
        }
        window.adapt(0);
        assert_eq!(window.size(), 32);
        window.adapt(0);
        assert_eq!(window.size(), 32);
    }

    #[test]
    fn it_grows_up_to_the_pool_and_no_further() {
        for most in [1, 3, 128, 32_768, 65_535] {
            let mut window = Window::new(16, most);
            for _ in 0..20 {
                window.note_shortage();
                window.adapt(0);
                assert!(window.size() > 0 && window.size() <= most);
            }
            assert_eq!(window.size(), most);
        }
    }

    #[test]
    fn it_goes_back_after_a_burst_whatever_is_taken_at_a_time() {
        // The last of them are two bulk streams: each takes as many as the kernel gives to one at a time.
        for (taken, expected) in [(1, 16), (16, 16), (17, 32), (40, 64), (64, 64)] {
            let mut window = Window::new(16, 128);
            publish(&mut window, 3, 128);
            assert_eq!(window.size(), 128);
            publish(&mut window, 4 * NARROW_AFTER, taken);
            assert!(window.size() <= expected, "{} for {taken}", window.size());
        }
    }

    #[test]
    fn trials_that_fail_become_rare() {
        let mut window = Window::new(16, 128);
        publish(&mut window, 2, 64);
        let early = publish(&mut window, 64 * NARROW_AFTER, 64);
        let late = publish(&mut window, 64 * NARROW_AFTER, 64);
        assert!((1..=8).contains(&early), "{early} shortages");
        assert!(late <= 2, "{late} shortages later");
        assert!(window.size() >= 32);
    }

    #[test]
    fn what_lies_untouched_says_nothing() {
        let mut window = Window::new(16, 128);
        publish(&mut window, 1, 128);
        publish(&mut window, 10 * NARROW_AFTER, 0);
        assert_eq!(window.size(), 32);
    }
}
