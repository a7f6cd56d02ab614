package import Glibc

/// Ends a process whose supervisor was killed, so that none is left behind that holds a home and obeys nobody.
package enum ParentWatch {
    /// Sends this process SIGTERM once its parent is no longer `parent`.
    package static func start(_ parent: pid_t) {
        Task.detached {
            // A signal on the parent's death (PR_SET_PDEATHSIG) would already come when the thread that forked ends.
            while getppid() == parent { try? await Task.sleep(for: .seconds(1)) }
            kill(getpid(), SIGTERM)
        }
    }
}
