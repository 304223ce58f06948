"""
    LinearSolveBroadcast(buffers, out, a, b, transposed)

Solve [`Systems`](@ref), each by one element of a broadcast.
"""
struct LinearSolveBroadcast{X, A, B, F, D} <: Function
    systems::Systems
    x::X
    a::A
    b::B
    factors::F
    done::D
end

function LinearSolveBroadcast(buffers, out::Window, a::Window, b::Window, transposed)
    n = b.shape[end - 1]
    systems = Systems(out, a, b, transposed; factor_step = n^2)
    memory = buffers[out.buffer]
    return LinearSolveBroadcast(
        systems, memory, buffers[a.buffer], buffers[b.buffer], similar(memory, n^2 * systems.batch),
        similar(memory, Bool, systems.batch)
    )
end

@inline function solved(x, a, b, factors, systems, i)
    solve_system!(x, a, b, factors, systems, i)
    return true
end

function (k::LinearSolveBroadcast)()
    (; systems, done) = k
    broadcast!(
        solved, done, Ref(k.x), Ref(k.a), Ref(k.b), Ref(k.factors), Ref(systems),
        0:(systems.batch - 1)
    )
    return nothing
end
