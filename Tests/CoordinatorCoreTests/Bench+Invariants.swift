import CoordinatorCore
import FarmModel
import Microarchitecture
import Testing

extension Bench {
    /// What holds of a farm whatever happened to it, and of its journal.
    func checkInvariants() throws {
        for job in state.jobs.values {
            let open = state.attempts.values.filter { $0.id.job == job.id && $0.isOpen }
            #expect(open.count <= 1)
            if job.state.isFinal || job.state == .publishing { #expect(open.isEmpty, "\(job.id) \(job.state)") }
            if job.state == .running, job.joined == nil { #expect(open.count == 1, "\(job.id)") }
            if job.state == .publishing { #expect(state.publications[job.id] != nil || job.joined != nil) }
            if job.state == .verifying, job.joined == nil {
                #expect(state.publications[job.id]?.step == .verify, "\(job.id)")
                #expect(state.jobs.values.contains { $0.parent == job.id && !$0.state.isFinal }, "\(job.id) waits for nobody")
            }
            if job.kind == .verify, !job.state.isFinal {
                #expect(job.parent.flatMap { state.jobs[$0] }?.state == .verifying, "\(job.id) is wanted by nobody")
            }
            if let record = state.publications[job.id], [.release, .pointer].contains(record.step) {
                #expect(Set(record.verified?.map(\.asked) ?? []) == Set(job.verifyOn ?? []))
                #expect(!record.result.tests.contains { $0.wasLeft ?? false }, "nobody has run what was left to others")
            }
            #expect(job.setbacks <= state.rules.mostSetbacks || job.kind == .verify)
            if let leader = job.joined, !job.state.isFinal { #expect(state.jobs[leader].map { !$0.state.isFinal } ?? false, "\(job.id)") }
            for attempt in open where attempt.state == .assigned || attempt.state == .running {
                let isNative = state.workers[attempt.worker]?.facts.map { Microarchitecture.runs($0.target, job.target) } ?? true
                #expect(isNative || job.allowsEmulation ?? false, "\(attempt.id)")
            }
        }
        #expect(state.table.inconsistencies().isEmpty, "\(state.table.inconsistencies())")
        let released = state.releases.values.filter { $0.release.emulator == nil }.map(\.release.image.buildKey)
        #expect(Set(released).count == released.count, "a build was released twice")
        let again = try journal.load(recent: 10_000)
        #expect(again.jobs == state.jobs.values.sorted { $0.number < $1.number })
        #expect(Set(again.publications) == Set(state.publications.values))
    }
}
