"""
    PointwiseBroadcast(f, buffers, out, args)

`out .= f.(args...)` as one broadcast.
"""
struct PointwiseBroadcast{F, O, A <: Tuple} <: Function
    f::F
    out::O
    args::A
end

function PointwiseBroadcast(f, buffers, out::Window, windows)
    # A constant is a broadcast too: filling could come down to a loop.
    isempty(windows) && return PointwiseBroadcast(identity, array_of(buffers, out), (f(),))
    all_windows = (out, windows...)
    to, args... = arrays_of(map(w -> buffers[w.buffer], all_windows), all_windows)
    # The very same array: of two over one memory, broadcasts copy one first.
    same = map((w, x) -> is_same(w, out) ? to : x, Tuple(windows), args)
    return PointwiseBroadcast(f, to, same)
end

is_same(a::Window, b::Window) =
    a.buffer == b.buffer && a.offset == b.offset && a.shape == b.shape && a.strides == b.strides

function (kernel::PointwiseBroadcast)()
    broadcast!(kernel.f, kernel.out, kernel.args...)
    return nothing
end
