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

"""
    FactorisationBroadcast(factor!, buffers, out, a)

Factor each of [`Squares`](@ref) by one element of a broadcast.
"""
struct FactorisationBroadcast{F, X, A, D} <: Function
    factor!::F
    squares::Squares
    out::X
    a::A
    done::D
end

function FactorisationBroadcast(factor!, buffers, out::Window, a::Window)
    squares = Squares(out, a)
    memory = buffers[out.buffer]
    done = similar(memory, Bool, squares.batch)
    return FactorisationBroadcast(factor!, squares, memory, buffers[a.buffer], done)
end

@inline function factored(factor!, out, a, squares, i)
    factor!(out, a, squares, i)
    return true
end

function (k::FactorisationBroadcast)()
    (; squares) = k
    broadcast!(
        factored, k.done, Ref(k.factor!), Ref(k.out), Ref(k.a), Ref(squares), 0:(squares.batch - 1)
    )
    return nothing
end

"""
    MatrixExponentialBroadcast(buffers, out, a)

The exponential of each of [`Squares`](@ref) by one element of a broadcast.
"""
struct MatrixExponentialBroadcast{X, A, W, D} <: Function
    squares::Squares
    out::X
    a::A
    work::W
    done::D
end

function MatrixExponentialBroadcast(buffers, out::Window, a::Window)
    squares = Squares(out, a)
    memory = buffers[out.buffer]
    work = similar(memory, EXPONENTIAL_WORK * squares.n^2 * squares.batch)
    done = similar(memory, Bool, squares.batch)
    return MatrixExponentialBroadcast(squares, memory, buffers[a.buffer], work, done)
end

@inline function exponentiated(out, a, work, squares, i)
    exponentiate!(out, a, work, squares, i, i)
    return true
end

function (k::MatrixExponentialBroadcast)()
    (; squares) = k
    broadcast!(
        exponentiated, k.done, Ref(k.out), Ref(k.a), Ref(k.work), Ref(squares), 0:(squares.batch - 1)
    )
    return nothing
end
