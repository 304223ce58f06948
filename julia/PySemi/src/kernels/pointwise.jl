# One scalar function over windows of one shape.

"How the innermost loop reads or writes an operand: each kind compiles to its own code."
abstract type Access{T} end

"Neighbouring elements."
struct Run{T} <: Access{T}
    at::Ptr{T}
end
"Elements a fixed distance apart."
struct Stride{T} <: Access{T}
    at::Ptr{T}
    step::Int
end
"One element, read once."
struct Single{T} <: Access{T}
    value::T
end

@inline get(x::Run, i) = unsafe_load(x.at, i + 1)
@inline get(x::Stride, i) = unsafe_load(x.at, i * x.step + 1)
@inline get(x::Single, _) = x.value
@inline put!(x::Run, value, i) = unsafe_store!(x.at, value, i + 1)
@inline put!(x::Stride, value, i) = unsafe_store!(x.at, value, i * x.step + 1)

"""
    PointwiseLoop

`out .= f.(args...)` as loops over memory. `K` is a tuple that says for each operand, the
result first, how the innermost loop moves: `:run`, `:stride` or `:single`.
"""
struct PointwiseLoop{K, F, O, A <: Tuple, N} <: Function
    f::F
    out::Ptr{O}
    args::A
    nest::Nest{N}
end

function PointwiseLoop(f, out::Ptr, args::Tuple, nest::Nest{N}) where {N}
    kinds = ntuple(k -> movement(nest.strides[k][1], k), N)
    return PointwiseLoop{kinds, typeof(f), eltype(out), typeof(args), N}(f, out, args, nest)
end

movement(step, k) = step == 1 ? :run : (step == 0 && k > 1) ? :single : :stride

@inline access(::Val{:run}, p::Ptr, _) = Run(p)
@inline access(::Val{:stride}, p::Ptr, step) = Stride(p, step)
@inline access(::Val{:single}, p::Ptr, _) = Single(unsafe_load(p))

@inline element(p::Ptr{T}, offset) where {T} = p + offset * sizeof(T)

function (kernel::PointwiseLoop{K, F, O, A, N})() where {K, F, O, A, N}
    (; f, out, args, nest) = kernel
    n = nest.sizes[1]
    each_row(nest) do offsets
        to = access(Val(K[1]), element(out, offsets[1]), nest.strides[1][1])
        from = ntuple(Val(N - 1)) do k
            access(Val(K[k + 1]), element(args[k], offsets[k + 1]), nest.strides[k + 1][1])
        end
        row!(f, to, from, n)
    end
    return nothing
end

@inline function row!(f::F, to, from::A, n) where {F, A}
    # An operand may lie where the result goes, but then element on element.
    @simd ivdep for i in 0:(n - 1)
        put!(to, f(map(x -> get(x, i), from)...), i)
    end
    return nothing
end
