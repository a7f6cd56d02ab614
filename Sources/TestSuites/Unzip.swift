import CZlib
import FarmModel

/// Unpacks what lies in memory.
enum Unzip {
    /// What a packed file may become.
    static let most = 4 << 30

    /// gzip members one behind the other, or one zlib stream; throws `gzip.damaged`.
    ///
    /// - Parameter most: bytes; what has more is refused.
    static func gzip(_ bytes: [UInt8], most: Int = most, source: String) throws -> [UInt8] {
        var stream = z_stream()
        guard sciferry_zlib_begin(&stream) == Z_OK else { throw FarmError("gzip.failed", .fault, "zlib cannot begin") }
        defer { inflateEnd(&stream) }
        func damaged() -> FarmError { FarmError("gzip.damaged", .corrupt, "\(source): its packed bytes are damaged") }
        var result: [UInt8] = []
        var buffer = [UInt8](repeating: 0, count: 1 << 18)
        var packed = bytes
        var isWhole = false
        try packed.withUnsafeMutableBufferPointer { input in
            stream.next_in = input.baseAddress
            stream.avail_in = UInt32(clamping: input.count)
            while true {
                let room = buffer.count
                let (status, left) = buffer.withUnsafeMutableBufferPointer { output -> (Int32, Int) in
                    stream.next_out = output.baseAddress
                    stream.avail_out = UInt32(room)
                    let status = inflate(&stream, Z_NO_FLUSH)
                    return (status, Int(stream.avail_out))
                }
                result += buffer[..<(room - left)]
                guard result.count <= most else {
                    throw FarmError("gzip.large", .invalid, "\(source) has more than \(most) bytes when unpacked")
                }
                switch status {
                case Z_STREAM_END:
                    isWhole = true
                    // Padding, or another member.
                    guard stream.avail_in > 0, stream.next_in.pointee != 0 else { return }
                    guard inflateReset(&stream) == Z_OK else { throw damaged() }
                    isWhole = false
                case Z_OK where stream.avail_in > 0 || left == 0: break
                default: return
                }
            }
        }
        guard isWhole else { throw damaged() }
        return result
    }
}
